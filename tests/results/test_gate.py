"""The gate: it tells a regression from an improvement, noise and another plan, at known error rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest
from synthetic_records import PROVENANCE, make_plan, make_records

from robustatt.errors import InputError
from robustatt.report import check as report
from robustatt.results import gate, statistics
from robustatt.results.aggregate import summarise
from robustatt.results.reference import Reference, make_reference, read_reference, write_reference


def outcomes_alone(**asked: Any) -> pd.DataFrame:
    """Synthetic records without drift, which takes most of the time and which the gate does not look at."""
    records = make_records(**asked)
    return records[[name for name in records if not name.startswith("drift_")]]


def run(records: pd.DataFrame, **plan: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    return records, summarise(records, make_plan(records) | plan, PROVENANCE, [])


def worsened(records: pd.DataFrame, share: float, model: str = "vgg_att3", better: bool = False) -> pd.DataFrame:
    """The records with a share of one model's examples under pgd broken (or mended) above radius 0."""
    changed = records.copy()
    rng = np.random.default_rng(9)
    unlucky = rng.permutation(records["index"].unique())[: round(share * records["index"].nunique())]
    rows = (changed.model == model) & (changed.attack == "pgd") & changed["index"].isin(unlucky)
    rows &= changed.eps != "0/255"
    changed.loc[rows, "adv_pred"] = changed.loc[rows, "label"] + (0 if better else 1)
    return changed


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return outcomes_alone(n=400)


@pytest.fixture(scope="module")
def reference(records: pd.DataFrame) -> Reference:
    return make_reference(*run(records))


def test_round_trip_and_size(tmp_path: Path) -> None:
    big = outcomes_alone(models=("vgg", "vgg_att1", "vgg_att2", "vgg_att3"), attacks=("pgd",), n=1000)
    made = make_reference(*run(big))
    path = write_reference(tmp_path / "reference.json", made)
    assert path.stat().st_size < 200_000
    again = read_reference(path)
    assert again.identity == made.identity
    for old, new in zip(made.curves, again.curves, strict=True):
        assert np.array_equal(old.correct, new.correct)
        assert np.array_equal(old.index, new.index)
        assert (old.model, old.attack, old.eps) == (new.model, new.attack, new.eps)
    assert gate.check(*run(big), again).verdict == "same"


def test_scattered_indices_survive(tmp_path: Path) -> None:
    records = outcomes_alone(n=30)
    records = records[records["index"] % 3 != 1]
    path = write_reference(tmp_path / "r.json", make_reference(*run(records)))
    assert gate.check(*run(records.sample(frac=1, random_state=1)), read_reference(path)).exit_code == 0


def test_same_run_passes(records: pd.DataFrame, reference: Reference) -> None:
    result = gate.check(*run(records), reference)
    assert (result.verdict, result.exit_code) == ("same", 0)
    assert len(result.points) == 2 * (1 + 2 * 16)  # the clean point counts once a model


def test_regression_names_curve_and_counts(records: pd.DataFrame, reference: Reference) -> None:
    result = gate.check(*run(worsened(records, 0.12)), reference)
    assert (result.verdict, result.exit_code) == ("regression", 1)
    worst = result.of("regression")[0]
    assert (worst.model, worst.attack) == ("vgg_att3", "pgd")
    assert worst.p == pytest.approx(binomtest(worst.lost, worst.lost + worst.gained, alternative="greater").pvalue)
    assert worst.change == pytest.approx(worst.run - worst.reference)
    assert "vgg_att3 under pgd" in result.headline
    assert {p.model for p in result.of("regression")} == {"vgg_att3"}


def test_improvement_passes(records: pd.DataFrame, reference: Reference) -> None:
    result = gate.check(*run(worsened(records, 0.12, better=True)), reference)
    assert (result.verdict, result.exit_code) == ("improvement", 0)


def test_a_few_flips_are_noise(records: pd.DataFrame, reference: Reference) -> None:
    result = gate.check(*run(worsened(records, 0.01)), reference)
    assert (result.verdict, result.exit_code) == ("noise", 0)
    lost = max(point.lost for point in result.points)
    assert f"at most {lost} of 400 examples changed sides, within noise; largest drop: vgg_att3 under pgd" in result.headline
    assert f"{lost} lost, 0 gained" in result.headline
    better = gate.check(*run(worsened(records, 0.01, better=True)), reference)
    assert (better.verdict, "drop" in better.headline) == ("noise", False)


def test_floor_holds_back_significant_trifles(records: pd.DataFrame, reference: Reference) -> None:
    assert gate.check(*run(worsened(records, 0.12)), reference, max_drop=15.0).verdict == "noise"


@pytest.mark.parametrize(
    ("plan", "kind", "word"),
    [
        ({"seed": 1}, "seed", "seed"),
        (
            {"data": {"name": "digits", "split": "test", "n": 400, "fingerprint": "d-2"}},
            "data",
            "fingerprint",
        ),
        (
            {"attacks": [{"name": "fgsm", "norm": "l2", "fingerprint": "a-fgsm"}, {"name": "pgd"}]},
            "attack",
            "norm",
        ),
        ({"eps": ["1/255"]}, "eps", "2/255"),
    ],
)
def test_changed_plan_says_which(records: pd.DataFrame, reference: Reference, plan: dict[str, Any], kind: str, word: str) -> None:
    result = gate.check(*run(records, **plan), reference)
    assert (result.verdict, result.exit_code) == ("changed plan", 2)
    assert kind in {change.kind for change in result.changes}
    assert word in " ".join(map(str, result.changes))
    allowed = gate.check(*run(records, **plan), reference, allow=[kind])
    assert allowed.verdict == "same"
    assert allowed.noted


def test_other_weights_are_what_the_gate_is_for(records: pd.DataFrame, reference: Reference) -> None:
    models = [{"name": "vgg", "fingerprint": "x"}, {"name": "vgg_att3", "fingerprint": "y"}]
    fine = gate.check(*run(records, models=models), reference)
    assert (fine.exit_code, [change.kind for change in fine.noted]) == (0, ["weights", "weights"])
    assert "weights of vgg_att3" in report.to_markdown(fine).replace("\\", "")
    worse = run(worsened(records, 0.12), models=models)
    assert gate.check(*worse, reference).exit_code == 1
    pinned = gate.check(*worse, reference, same_weights=True)
    assert (pinned.verdict, pinned.exit_code) == ("changed plan", 2)
    assert "weights of vgg" in pinned.headline


@pytest.mark.parametrize(("alpha", "max_drop", "least"), [(0.01, 1.0, 7), (0.01, 5.0, 21), (0.5, 0.0, 1), (2**-9, 0.0, 9)])
def test_the_least_loss_that_can_be_seen(
    alpha: float, max_drop: float, least: int, records: pd.DataFrame, reference: Reference
) -> None:
    """So many of 400 lost, at one point and with nothing gained, are a regression, and one fewer is not."""
    held = records[(records.model == "vgg") & (records.attack == "fgsm") & (records.eps == "1/255")]
    held = held[(held.label == held.clean_pred) & (held.label == held.adv_pred)]
    for lost, verdict in ((least, "regression"), (least - 1, "noise" if least > 1 else "same")):
        broken = records.copy()
        broken.loc[held.index[:lost], "adv_pred"] = broken.loc[held.index[:lost], "label"] + 1
        result = gate.check(*run(broken), reference, max_drop, alpha)
        assert (result.verdict, result.least) == (verdict, least)
    assert f"With 400 examples, the loss of fewer than {least} at a point" in report.rule(result)


def test_a_wrong_field_to_allow_is_named(records: pd.DataFrame, reference: Reference) -> None:
    with pytest.raises(InputError, match="did you mean 'data'"):
        gate.check(*run(records), reference, allow=["dta"])


def test_the_same_images_elsewhere_are_the_same_data(records: pd.DataFrame, reference: Reference) -> None:
    data = {"name": "/elsewhere/digits.npz", "split": "val", "n": 400, "fingerprint": "d-1"}
    assert gate.check(*run(records, data=data), reference).verdict == "same"
    data["n"] = 399
    assert gate.check(*run(records, data=data), reference).verdict == "changed plan"


def test_more_models_attacks_and_radii_are_no_change(records: pd.DataFrame, reference: Reference) -> None:
    more = outcomes_alone(models=("vgg", "vgg_att3", "vgg_att2"), attacks=("fgsm", "pgd", "noise"), n=400, radii=16)
    more = more[more.model == "vgg_att2"]
    both = pd.concat([records, more], ignore_index=True)
    assert gate.check(*run(both), reference).exit_code == 0


def test_missing_examples_are_not_compared(records: pd.DataFrame, reference: Reference) -> None:
    partial = records[~((records.model == "vgg") & (records["index"] > 390))]
    _, summary = run(records)
    result = gate.check(partial, summary, reference)
    assert result.verdict == "changed plan"
    assert "391 complete" in result.headline
    with pytest.raises(InputError, match="lacks"):
        make_reference(records.drop(index=3), summary)
    with pytest.raises(InputError, match="no records"):
        make_reference(records.head(0), summary)


def test_renderers(records: pd.DataFrame, reference: Reference) -> None:
    result = gate.check(*run(worsened(records, 0.12)), reference)
    heads, rows = report.table(result)
    assert rows
    assert all(len(row) == len(heads) for row in rows)
    assert "Robustness check failed" in report.to_markdown(result)
    suite = ElementTree.fromstring(report.to_junit(result))
    assert int(suite.get("failures", "0")) == len(suite.findall("testcase/failure")) == len(rows)
    assert int(suite.get("tests", "0")) == len(suite.findall("testcase"))
    notes = report.to_annotations(result, "reports/digits/reference.json").splitlines()
    assert all(note.startswith("::error file=reports/digits/reference.json,title=") for note in notes)


def test_renderers_escape(records: pd.DataFrame) -> None:
    evil = "a|b</x>\x01::error::\n%"
    named = records.replace({"model": {"vgg_att3": evil}})
    made = make_reference(*run(named))
    result = gate.check(*run(worsened(named, 0.2, model=evil)), made)
    assert result.exit_code == 1
    assert ElementTree.fromstring(report.to_junit(result)).findall("testcase/failure")
    assert len(report.to_annotations(result).splitlines()) == len(result.of("regression"))
    table = [line for line in report.to_markdown(result).splitlines() if line.startswith("| a")]
    assert table
    assert all(line.replace("\\|", "").count("|") == 11 for line in table)
    assert "</x>" not in report.to_markdown(result)
    changed = gate.check(*run(named, seed=5), made)
    assert ElementTree.fromstring(report.to_junit(changed)).findall("testcase/error")


@pytest.mark.parametrize("harm", ["truncate", "json", "kind", "schema", "count", "bits", "bomb", "index", "eps", "type"])
def test_damaged_reference_is_one_line(tmp_path: Path, reference: Reference, harm: str) -> None:
    path = write_reference(tmp_path / "r.json", reference)
    text = path.read_text()
    document = json.loads(text)
    curve = document["curves"][0]
    if harm == "truncate":
        text = text[: len(text) // 2]
    elif harm == "json":
        text = "[]"
    else:
        if harm == "kind":
            document["kind"] = "summary"
        elif harm == "schema":
            document["schema"] = 7
        elif harm == "count":
            curve["correct"][3] += 1
        elif harm == "bits":
            curve["outcomes"] = curve["outcomes"][:40] + "AAAA" + curve["outcomes"][44:]
        elif harm == "bomb":
            curve["n"] = 10**12
        elif harm == "index":
            curve["index"] = [0, 3]
        elif harm == "eps":
            curve["eps"][0] = "1/0"
        elif harm == "type":
            document["curves"] = {"a": 1}
        text = json.dumps(document)
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_reference(path)
    assert "\n" not in str(caught.value)


def test_missing_reference_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--update"):
        read_reference(tmp_path / "none.json")


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_testable_points_are_those_of_tarone(alpha: float) -> None:
    """By the definition of Tarone (1990): the least K for which at most K points could reach alpha / K."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        flips = rng.integers(0, 20, size=rng.integers(1, 70))
        least = binom(flips, 0.5).pmf(flips)
        able = [least <= alpha / k * (1 + 1e-9) for k in range(1, len(flips) + 1)]
        assert np.array_equal(gate.testable(flips, alpha), next(a for k, a in enumerate(able, 1) if a.sum() <= k))


def test_the_chance_of_an_alarm_by_counting_every_case() -> None:
    """Three points with 3, 7 and 9 flips that fall either way by a coin: exactly how often is any called a loss?"""
    flips, alpha = np.array([3, 7, 9]), 0.05
    tested = gate.testable(flips, alpha)
    assert tested.tolist() == [False, True, True]
    chance = 0.0
    for lost in np.ndindex(4, 8, 10):
        weight = np.prod(binom(flips, 0.5).pmf(lost))
        adjusted = gate.adjust(np.array(lost), flips - np.array(lost), tested)
        chance += weight * bool(((adjusted <= alpha) & (2 * np.array(lost) > flips)).any())
    assert 0.02 < chance <= alpha


def test_only_points_with_enough_flips_are_counted_by_holm() -> None:
    tested = np.array([True, False, True])
    adjusted = gate.adjust(np.array([30, 1, 2]), np.array([5, 0, 14]), tested)
    one, other = (binomtest(b, b + c, alternative="greater").pvalue for b, c in ((30, 5), (14, 2)))
    assert adjusted == pytest.approx([2 * one, 1.0, 2 * other])
    assert statistics.mcnemar_one_sided(30, 5) == pytest.approx(one)
