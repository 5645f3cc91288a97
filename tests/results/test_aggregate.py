"""Every aggregate of a run on a few records that are counted by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustatt.errors import InputError
from robustatt.results import statistics
from robustatt.results.aggregate import baselines, compare_outcomes, confusion, drift_auc, drift_rows, summarise
from robustatt.results.outcomes import Outcomes
from robustatt.results.summary import AreaRow, Confusion, Difference

EPS = ("0/255", "1/255", "2/255")
NAN = math.nan


def outcomes_of(
    label: Sequence[int], predictions: Sequence[Sequence[int]], model: str = "m", eps: Sequence[str] = EPS,
    index: Sequence[int] | None = None, present: Any = None, drift: Mapping[tuple[str, str], Any] | None = None,
) -> Outcomes:  # fmt: skip
    """The grid of one curve, from a row of predictions for each example; the first is that of the clean image."""
    grid = np.array(predictions)
    return Outcomes(
        model, "a", tuple(eps), np.arange(len(label)) if index is None else np.array(index), np.array(label), grid[:, 0],
        np.ones(grid.shape, bool) if present is None else np.array(present, bool), grid,
        {key: np.array(values, np.float32) for key, values in (drift or {}).items()},
    )  # fmt: skip


def records_of(model: str, attack: str, correct: int = 1, n: int = 4, **more: Any) -> pd.DataFrame:
    """`correct` of `n` examples are right at 1/255, all are when clean."""
    clean = pd.DataFrame({"eps": "0/255", "index": range(n), "label": 0, "clean_pred": 0, "adv_pred": 0})
    moved = clean.assign(eps="1/255", adv_pred=[0] * correct + [1] * (n - correct))
    return pd.concat([clean, moved], ignore_index=True).assign(model=model, attack=attack, **more)


# The order of a summary ------------------------------------------------------------------------------------


def test_curves_stand_in_the_order_of_the_plan_controls_last() -> None:
    attacks = ("noise", "z", "pgd", "fgsm", "b")
    records = pd.concat([records_of(model, attack, drift_js_l1=0.5) for model in ("b", "a", "p2", "p1") for attack in attacks])
    plan = {"models": [{"name": "p1"}, {"name": "p2"}], "attacks": [{"name": name} for name in ("noise", "fgsm", "pgd")]}
    provenance, health = {"command": "c"}, [{"code": "saturation", "message": "m"}]
    found = summarise(records, plan, provenance, health)
    order = ("fgsm", "pgd", "b", "z", "noise")
    assert [(c.model, c.attack) for c in found.curves] == [(m, a) for m in ("p1", "p2", "a", "b") for a in order]
    assert [(c.model, c.attack) for c in found.confusion] == [(m, a) for m in ("p1", "p2", "a", "b") for a in order[:-1]]
    assert list(dict.fromkeys((row.model, row.attack) for row in found.drift)) == [(c.model, c.attack) for c in found.curves]
    assert {row.attack for row in found.drift_predicts_fooling} == set(order[:-1])
    assert (found.version, found.plan.as_dict(), found.provenance.as_dict()) == (1, plan, provenance)
    assert [note.as_dict() for note in found.health] == health
    assert found.differences == []


def test_a_plan_that_is_none_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^the plan is not a summary: plan\.models: "):
        summarise(records_of("m", "a"), {"models": 3}, {}, [])


def test_a_point_counts_what_is_there() -> None:
    """Of five examples one is wrong when clean, one lacks 1/255, one breaks at 1/255 and recovers, one goes from 2 on."""
    rows = {0: "00 00 00", 1: "11 10 11", 2: "02 02 01", 3: "00 __ 01", 4: "00 00 01"}
    records = pd.DataFrame([
        {"eps": eps, "index": index, "label": int(cell[0]), "clean_pred": int(row[1]), "adv_pred": int(cell[1])}
        for index, row in rows.items() for eps, cell in zip(EPS, row.split(), strict=True) if cell != "__"
    ]).assign(model="m", attack="a")  # fmt: skip
    (curve,) = summarise(records, {"attacks": [{"name": "a", "norm": "l2"}]}, {}, []).curves
    assert (curve.model, curve.attack, curve.norm, curve.distances) == ("m", "a", "l2", {})
    expected = [("0/255", 5, 4, 4, 0), ("1/255", 4, 2, 2, 1), ("2/255", 5, 2, 1, 3)]
    for point, (eps, n, right, held, fooled) in zip(curve.points, expected, strict=True):
        low, high = statistics.wilson(right, n)
        assert point.as_dict() == {
            "eps": eps, "n": n, "accuracy": right / n, "ci_low": float(low), "ci_high": float(high),
            "worst_case_accuracy": held / n, "fooling_rate": fooled / n,
        }  # fmt: skip


def test_a_chain_says_what_each_part_broke_and_a_rotation_how_far_it_went() -> None:
    broken = records_of("m", "chain", correct=1).assign(broken_by=["", "", "", "", "", "b", "b", "c"])
    (curve,) = summarise(broken, {}, {}, []).curves
    assert [point.broken_by for point in curve.points] == [{"b": 0, "c": 0}, {"b": 2, "c": 1}]
    (curve,) = summarise(broken.assign(attack="autoattack").replace({"b": "square", "c": "other"}), {}, {}, []).curves
    assert list(curve.points[1].broken_by.items()) == [("apgd-ce", 0), ("apgd-t", 0), ("fab-t", 0), ("square", 2), ("other", 1)]
    far = records_of("m", "a", correct=2, attacked=True, distance=0.5).replace({"1/255": "255/255"})
    (curve,) = summarise(far, {"attacks": [{"name": "a", "norm": "none"}]}, {}, []).curves
    assert (curve.norm, curve.distances) == ("none", {"linf": {"median": 0.5, "largest": 0.5}})


# Drift -----------------------------------------------------------------------------------------------------


def test_drift_is_averaged_by_group_within_the_range_of_its_metric() -> None:
    """Of four examples at 1/255 the last two are fooled and one is not measured; at 2/255 one example is."""
    values = [[0.0, 0.01, NAN], [0.0, 0.05, NAN], [0.0, 0.9, 0.6], [0.0, NAN, NAN]]
    outcomes = outcomes_of(
        [0, 0, 0, 0], [[0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 1]],
        drift={("js", "l3"): values, ("entropy", "gradcam"): values, ("other", "l3"): values, ("iou", "l3"): 1 - np.array(values)},
    )  # fmt: skip
    rows = list(drift_rows(outcomes))
    at_0, at_1, at_2 = [0.0] * 4, [0.01, 0.05, 0.9], [0.6]
    for metric, level, kind, least, most in (
        ("js", "l3", "attention", 0, 1),
        ("entropy", "gradcam", "saliency", -math.inf, math.inf),
        ("other", "l3", "attention", -math.inf, math.inf),
    ):
        mine = [row for row in rows if row.metric == metric]
        groups = [("all", "0/255", at_0), ("all", "1/255", at_1), ("all", "2/255", at_2), ("fooled", "1/255", at_1[2:]),
                  ("fooled", "2/255", at_2), ("held", "0/255", at_0), ("held", "1/255", at_1[:2])]  # fmt: skip
        assert [(row.group, row.eps, row.n) for row in mine] == [(group, eps, len(seen)) for group, eps, seen in groups]
        for row, (_, _, seen) in zip(mine, groups, strict=True):
            assert (row.model, row.attack, row.level, row.kind) == ("m", "a", level, kind)
            assert row.mean == pytest.approx(np.mean(seen), abs=1e-7)
            if len(seen) == 1:
                assert row.ci_low is row.ci_high is None
                continue
            low, high = stats.t.interval(0.95, len(seen) - 1, np.mean(seen), stats.sem(seen)) if max(seen) else (0, 0)
            assert row.ci_low == pytest.approx(max(low, least), abs=2e-6)
            assert row.ci_high == pytest.approx(min(high, most), abs=2e-6)
    third = next(row for row in rows if (row.metric, row.group, row.eps) == ("iou", "held", "1/255"))
    assert (third.mean, third.ci_low, third.ci_high) == (0.97, pytest.approx(0.7158759), 1)
    assert third.ci_low == round(third.ci_low or 0, 7)


def test_a_threshold_search_counts_drift_where_it_attacked() -> None:
    records = records_of("m", "a", correct=2, drift_js_l1=[0.0] * 4 + [0.1, 0.2, 0.3, 0.4], attacked=[False] * 5 + [True] * 3)
    rows = {(row.eps, row.group): (row.n, row.mean) for row in summarise(records, {}, {}, []).drift}
    assert rows["1/255", "all"] == (3, 0.3)
    assert rows["1/255", "held"] == (1, 0.2)
    assert rows["0/255", "all"] == (4, 0)


def test_areas_are_of_the_cleanly_right_radius_by_radius() -> None:
    """Nine examples, the last wrong when clean. Fooled are none, 1, 3 and all of the others."""
    eps = ("0/255", "1/255", "2/255", "3/255", "4/255")
    fooled = [[0, 1, 1, 1, 1], *[[0, 0, 1, 1, 1]] * 2, *[[0, 0, 0, 0, 1]] * 5, [1, 0, 0, 0, 0]]
    drift = np.linspace(1, 0, 9)[:, None] * np.ones(5)
    drift[3, 2] = 2.0  # held, and moved most
    drift[2:8, 3] = NAN
    outcomes = outcomes_of([0] * 9, fooled, eps=eps, drift={("iou", "l1"): drift, ("js", "l1"): drift, ("js", "gradcam"): -drift})
    rows = list(drift_auc(outcomes))
    expected = []
    for level, kind, sign in (("l1", "attention", 1), ("gradcam", "saliency", -1)):
        for column, n_fooled, n_held in ((1, 1, 7), (2, 3, 5)):
            area = statistics.auc_interval(sign * drift[:8, column], np.array(fooled)[:8, column] == 1)
            expected.append(AreaRow(
                model="m", attack="a", level=level, kind=kind, eps=eps[column], headline=column == 2, auc=round(area.value, 7),
                ci_low=round(area.low, 7), ci_high=round(area.high, 7), n_fooled=n_fooled, n_held=n_held,
            ))  # fmt: skip
    assert rows == expected
    assert [row.auc for row in rows] == [1, 0.8, 0, 0.2]
    assert [row.level for row in drift_auc(outcomes, "iou")] == ["l1", "l1"]


def test_an_area_of_the_whole_box_has_seven_digits() -> None:
    """An attack without a norm has 255/255 alone. The fooled example moved more than one of the three others."""
    values = [[0.0, 0.2], [0.0, 0.1], [0.0, 0.3], [0.0, 0.4]]
    outcomes = outcomes_of([0] * 4, [[0, 1], [0, 0], [0, 0], [0, 0]], eps=("0/255", "255/255"), drift={("js", "l1"): values})
    assert [(row.eps, row.auc) for row in drift_auc(outcomes)] == [("255/255", 0.3333333)]


def test_the_headline_has_the_narrowest_interval_for_its_images() -> None:
    """1 of 10 fooled weighs 0.9, 2 of 5 weigh 1.2, 1 of 2 weighs 0.5."""
    fooled = np.array([[0, 1, 1, 1], [0, 0, 1, 0], *[[0, 0, 0, 0]] * 8])
    drift = np.random.default_rng(0).random((10, 4))
    drift[5:, 2] = drift[2:, 3] = NAN
    outcomes = outcomes_of([0] * 10, fooled, eps=("0/255", "1/255", "2/255", "3/255"), drift={("js", "l1"): drift})
    assert [(row.eps, row.n_fooled, row.n_held, row.headline) for row in drift_auc(outcomes)] == [
        ("1/255", 1, 9, False), ("2/255", 2, 3, True), ("3/255", 1, 1, False)
    ]  # fmt: skip
    assert list(drift_auc(outcomes_of([0], [[0, 0, 0]], drift={("js", "l1"): [[0, 0, 0]]}))) == []


# Comparisons -----------------------------------------------------------------------------------------------


def test_the_baseline_is_named_before_att() -> None:
    models = ["vgg", "vgg_att3", "vgg_att", "resnet_att1", "a_att", "a_att_att2", "_att"]
    assert baselines(models) == {"vgg_att3": "vgg", "vgg_att": "vgg", "a_att_att2": "a_att"}


def test_two_curves_are_compared_where_both_have_rows() -> None:
    """Examples 1 to 5 are in both. Mine has no rows at 1/255, theirs no radius 3/255, nor example 3 at 2/255."""
    present = np.ones((6, 5))
    present[:, 1] = 0
    mine = outcomes_of(
        [0] * 6, [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
        eps=("0/255", "1/255", "2/255", "3/255", "4/255"), present=present,
    )  # fmt: skip
    lacking = np.ones((6, 4))
    lacking[2, 2] = 0
    theirs = outcomes_of(
        [0] * 6, [[0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]],
        model="b", eps=("0/255", "1/255", "2/255", "4/255"), index=[1, 2, 3, 4, 5, 9], present=lacking,
    )  # fmt: skip
    tables = {"0/255": (5, 0, 0, 0), "2/255": (2, 2, 0, 0), "4/255": (2, 1, 2, 0)}  # both right, only mine, only theirs, neither
    rows = compare_outcomes(mine, theirs)
    p = {eps: float(statistics.mcnemar_exact(table[1], table[2])) for eps, table in tables.items()}
    holm = dict(zip(tables, statistics.holm(list(p.values())), strict=True))
    expected = []
    for at, table in tables.items():
        change = statistics.newcombe_paired(statistics.PairedCounts(*table))
        expected.append(Difference(
            model="m", baseline="b", attack="a", eps=at, n=sum(table), difference=change.value, ci_low=change.low, ci_high=change.high,
            only_model=table[1], only_baseline=table[2], p=p[at], p_holm=float(holm[at]),
        ))  # fmt: skip
    assert [(r.eps, r.n, r.only_model, r.only_baseline) for r in rows] == [
        (r.eps, r.n, r.only_model, r.only_baseline) for r in expected
    ]
    assert rows == expected


def test_differences_are_those_of_models_with_a_baseline_under_the_same_attack() -> None:
    records = pd.concat(
        [records_of("n_att1", "x", 3), records_of("n", "x", 1), records_of("n_att1", "y", 4), records_of("o", "y", 1)]
    )
    rows = summarise(records, {}, {}, []).differences
    assert [(row.model, row.baseline, row.attack, row.eps, row.difference) for row in rows] == [
        ("n_att1", "n", "x", "0/255", 0.0), ("n_att1", "n", "x", "1/255", 0.5)
    ]  # fmt: skip


def test_every_model_has_its_own_baseline() -> None:
    records = pd.concat(
        [records_of(model, "x", correct) for model, correct in (("n", 1), ("n_att1", 3), ("o", 4), ("o_att2", 2))]
    )
    rows = summarise(records, {}, {}, []).differences
    assert [(row.model, row.baseline, row.difference) for row in rows if row.eps == "1/255"] == [
        ("n_att1", "n", 0.5),
        ("o_att2", "o", -0.5),
    ]


def test_confusion_is_counted_where_about_half_are_fooled() -> None:
    """Of six examples the last is wrong when clean; 1, 2 and 4 of the others are fooled. Both 1/255 away from a half count 2."""
    rows = [[3, 4, 4, 5], [3, 3, 5, 5], [7, 7, 7, 5], [7, 7, 7, 5], [7, 7, 7, 7], [0, 0, 4, 4]]
    eps = ("0/255", "1/255", "2/255", "3/255")
    outcomes = outcomes_of([3, 3, 7, 7, 7, 9], rows, eps=eps)
    assert confusion(outcomes) == Confusion(model="m", attack="a", eps="2/255", n_fooled=2, flows=[[3, 4, 1], [3, 5, 1]])
    later = outcomes_of([3, 3, 7, 7, 7, 9], [[row[0], row[0], row[3], row[2]] for row in rows], eps=eps)
    assert confusion(later).eps == "3/255"
    most = outcomes_of([3, 3, 7, 7, 7, 9], [[row[0], row[3]] for row in rows], eps=("0/255", "1/255"))
    assert confusion(most).flows == [[3, 5, 2], [7, 5, 2]]
    more = outcomes_of([3, 7, 7], [[3, 5], [7, 5], [7, 5]], eps=("0/255", "1/255"))
    assert confusion(more).flows == [[7, 5, 2], [3, 5, 1]], "most frequent first"


def test_confusion_of_nothing() -> None:
    none = Confusion(model="m", attack="a", eps="1/255", n_fooled=0, flows=[])
    assert confusion(outcomes_of([1], [[0, 2]], eps=("0/255", "1/255"))) == none, "no example was right"
    assert confusion(outcomes_of([0], [[0]], eps=("0/255",))) == none.model_copy(update={"eps": "0/255"})
    one = outcomes_of([0], [[0, 0, 5]])
    assert confusion(one) == none, "none and all are as far from a half"
    many = outcomes_of(range(40), [[label, (7 * label + 1) % 40] for label in range(40)], eps=("0/255", "1/255"))
    assert confusion(many).flows == [[label, (7 * label + 1) % 40, 1] for label in range(40)], "as frequent: by class"
    tie = outcomes_of([0, 0, 0, 0], [[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    assert confusion(tie).eps == "1/255", "a quarter and three quarters are as near: the smaller radius"
