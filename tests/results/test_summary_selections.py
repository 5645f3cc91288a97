"""What a summary answers of itself: which drift counts, what sort an attack is, and the run without some attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from robustatt.results import provenance
from robustatt.results.aggregate import summarise
from robustatt.results.plan_info import AttackInfo
from robustatt.results.summary import (
    AreaRow,
    Confusion,
    Curve,
    Difference,
    DriftRow,
    Point,
    Provenance,
    Summary,
)


def point(eps: str = "1/255", **more: Any) -> Point:
    values = {"n": 40, "accuracy": 0.5, "ci_low": 0.4, "ci_high": 0.6, "worst_case_accuracy": 0.25, "fooling_rate": 0.1}
    return Point(eps=eps, **(values | more))


def drift_row(model: str, attack: str, mean: float = 0.0) -> DriftRow:
    return DriftRow(
        model=model, attack=attack, level="l1", metric="js", eps="1/255", group="all", n=1, mean=mean, ci_low=None, ci_high=None
    )


def area_row(model: str, attack: str, auc: float = 0.5) -> AreaRow:
    return AreaRow(
        model=model, attack=attack, level="l1", eps="1/255", headline=True, auc=auc, ci_low=0.0, ci_high=1.0, n_fooled=1, n_held=1
    )


def difference(attack: str) -> Difference:
    return Difference(
        model="a_att1", baseline="a", attack=attack, eps="1/255", n=1, difference=0.0, ci_low=0.0, ci_high=0.0, only_model=0,
        only_baseline=0, p=1.0, p_holm=1.0,
    )  # fmt: skip


ATTACKS = {"pgd": "linf", "noise": "linf", "pgd-l2": "l2", "turned": "none"}

#: two models under four attacks of three sorts of norm; drift of PGD on the first was measured at full strength too
SUMMARY = Summary.parse(
    {
        "schema": 1,
        "plan": {"models": [{"name": "b"}, {"name": "a"}], "attacks": [{"name": name, "norm": norm} for name, norm in ATTACKS.items()]},
        "curves": [Curve(model=m, attack=a, norm=norm, points=[point()]).as_dict() for m in ("b", "a") for a, norm in ATTACKS.items()],
        "drift": [drift_row(m, a).as_dict() for m in ("b", "a") for a in ATTACKS],
        "drift_predicts_fooling": [area_row(m, a).as_dict() for m in ("b", "a") for a in ATTACKS],
        "differences": [difference(a).as_dict() for a in ATTACKS],
        "confusion": [Confusion(model="b", attack=a, eps="1/255", n_fooled=0, flows=[]).as_dict() for a in ATTACKS],
        "full_strength": {
            "n": 5,
            "drift": [drift_row("b", a, 0.9).as_dict() for a in ("pgd", "pgd-l2")],
            "drift_predicts_fooling": [area_row("b", a, 0.9).as_dict() for a in ("pgd", "pgd-l2")],
        },
    },
    "test",
)  # fmt: skip
NOTHING = Summary()


def named(rows: Any) -> list[str]:
    return [row.attack for row in rows]


def test_an_interval_is_wilsons_of_the_images_counted() -> None:
    """The interval of accuracy is in the file; of the others it is computed, here as statsmodels does."""
    assert point().interval("accuracy") == (0.4, 0.6)
    assert point().interval("worst_case_accuracy") == pytest.approx(proportion_confint(10, 40, method="wilson"))
    assert point().interval("fooling_rate") == pytest.approx(proportion_confint(4, 40, method="wilson"))
    thirds = point(n=3, worst_case_accuracy=1 / 3)
    assert thirds.interval("worst_case_accuracy") == pytest.approx(proportion_confint(1, 3, method="wilson"))


def test_drift_at_full_strength_comes_in_place_of_the_same_curve_of_the_sweep() -> None:
    assert [(row.model, row.attack, row.mean) for row in SUMMARY.measured_drift()] == [
        ("b", "pgd", 0.9), ("b", "pgd-l2", 0.9), ("b", "noise", 0.0), ("b", "turned", 0.0),
        ("a", "pgd", 0.0), ("a", "noise", 0.0), ("a", "pgd-l2", 0.0), ("a", "turned", 0.0),
    ]  # fmt: skip
    assert [(row.model, row.attack, row.auc) for row in SUMMARY.measured_areas()] == [
        ("b", "pgd", 0.9), ("b", "pgd-l2", 0.9), ("b", "noise", 0.5), ("b", "turned", 0.5),
        ("a", "pgd", 0.5), ("a", "noise", 0.5), ("a", "pgd-l2", 0.5), ("a", "turned", 0.5),
    ]  # fmt: skip
    plain = SUMMARY.model_copy(update={"full_strength": None})
    assert plain.measured_drift() == SUMMARY.drift
    assert plain.measured_areas() == SUMMARY.drift_predicts_fooling


def test_which_attacks_are_at_full_strength() -> None:
    """Those measured so, and those that always take all their steps: single steps, controls, attacks on attention."""
    assert SUMMARY.at_full_strength("pgd")
    plain = SUMMARY.model_copy(update={"full_strength": None})
    for name, expected in {"pgd": False, "mi-fgsm": False, "unknown": False, "fgsm": True, "noise": True, "attention": True,
                           "attention-keep": True}.items():  # fmt: skip
        assert plain.at_full_strength(name) is expected, name
    assert not SUMMARY.at_full_strength("mi-fgsm"), "another attack was measured so"


def test_what_sort_an_attack_is_and_its_norm() -> None:
    assert [SUMMARY.is_adversary(name) for name in ("pgd", "unknown", "noise", "attention")] == [True, True, False, False]
    own = {"name": "mine", "algorithm": "noise", "fingerprint": "f", "radii": ["1/255"], "norm": "l2"}
    assert AttackInfo.model_validate(own).category == "control", "by its recipe, not by its name"
    recipe = AttackInfo.model_validate(own).recipe
    assert recipe is not None
    assert (recipe.name, recipe.algorithm, recipe.norm) == ("mine", "noise", "l2")
    assert AttackInfo.model_validate({"name": "pgd", "algorithm": "noise"}).category == "control"
    later = AttackInfo.model_validate({"name": "pgd", "algorithm": "of a later version"})
    assert (later.recipe, later.category) == (None, "external")
    assert AttackInfo(name="fgsm").category == "single-step"
    assert AttackInfo(name="unknown").recipe is None
    assert [SUMMARY.norm_of(name) for name in ("pgd", "pgd-l2", "turned", "unknown")] == ["linf", "l2", "none", "linf"]
    asked = Summary.parse({"schema": 1, "plan": {"attacks": [{"name": "x", "norm": "l1"}]}}, "test")
    assert asked.norm_of("x") == "l1", "of an attack without a curve it is the plan's"


def test_the_names_and_norms_of_the_curves() -> None:
    assert SUMMARY.curve_names() == (["b", "a"], list(ATTACKS))
    assert SUMMARY.norms() == ["linf", "l2"]
    mixed = [Curve(model="m", attack=norm, norm=norm, points=[point()]) for norm in ("l1", "none", "l2", "linf", "l1")]
    assert Summary(curves=mixed).norms() == ["linf", "l2", "l1"]
    assert (NOTHING.curve_names(), NOTHING.norms()) == (([], []), [])


@pytest.mark.parametrize(("select", "left"), [
    (lambda: SUMMARY.without({"pgd", "turned"}), ["noise", "pgd-l2"]), (lambda: SUMMARY.of_norm("linf"), ["pgd", "noise"]),
    (lambda: SUMMARY.of_norm("l2"), ["pgd-l2"]), (lambda: SUMMARY.bounded(), ["pgd", "noise", "pgd-l2"]),
])  # fmt: skip
def test_without_an_attack_nothing_of_it_is_left(select: Callable[[], Summary], left: list[str]) -> None:
    found = select()
    assert [entry.name for entry in found.plan.attacks] == left
    assert found.plan.models == SUMMARY.plan.models
    for rows in (found.curves, found.drift, found.drift_predicts_fooling):
        assert named(rows) == 2 * left
    assert named(found.differences) == named(found.confusion) == left
    assert found.full_strength is not None
    assert found.full_strength.n == 5
    strong = [name for name in left if name in ("pgd", "pgd-l2")]
    assert named(found.full_strength.drift) == named(found.full_strength.drift_predicts_fooling) == strong
    assert SUMMARY.model_copy(update={"full_strength": None}).without({"pgd"}).full_strength is None


def test_provenance_is_of_this_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("command", "robustatt sweep"), ("versions", {"torch": "2"}), ("git_state", "abc")):
        monkeypatch.setattr(provenance, name, lambda value=value: value)
    assert Provenance.now({"device": "cpu"}, seconds=2.5).as_dict() == {
        "command": "robustatt sweep", "versions": {"torch": "2"}, "hardware": {"device": "cpu"}, "git": "abc", "seconds": 2.5
    }  # fmt: skip


def test_drift_at_full_strength_is_summarised_beside_the_sweep() -> None:
    """Two models of 3 and 4 examples: of each attack the drift, of adversaries the area too, in the plan's order."""

    def records(model: str, attack: str, n: int) -> pd.DataFrame:
        clean = pd.DataFrame({"eps": "0/255", "index": range(n), "label": 0, "clean_pred": 0, "adv_pred": 0, "drift_js_l1": 0.0})
        moved = clean.assign(eps="1/255", adv_pred=[1] + [0] * (n - 1), drift_js_l1=[0.5] + [0.25] * (n - 1))
        return pd.concat([clean, moved], ignore_index=True).assign(model=model, attack=attack)

    strong = pd.concat([records("b", "pgd", 3), records("a", "noise", 4), records("a", "pgd", 4)])
    plan = {"models": [{"name": "b"}, {"name": "a"}], "attacks": [{"name": "noise"}, {"name": "pgd"}]}
    swept = summarise(records("a", "pgd", 2), plan, {}, [], strong)
    found = swept.full_strength
    assert found is not None
    assert found.n == 4
    wanted = [(row.model, row.attack, row.n, row.mean) for row in found.drift if (row.eps, row.group) == ("1/255", "all")]
    assert wanted == [("b", "pgd", 3, pytest.approx(1 / 3)), ("a", "pgd", 4, 0.3125), ("a", "noise", 4, 0.3125)]
    assert [(row.model, row.attack, row.n_held, row.auc) for row in found.drift_predicts_fooling] == [
        ("b", "pgd", 2, 1.0), ("a", "pgd", 3, 1.0)
    ]  # fmt: skip
    assert [curve.points[0].n for curve in swept.curves] == [2]
    assert summarise(records("a", "pgd", 2), plan, {}, [], strong.head(0)).full_strength is None
