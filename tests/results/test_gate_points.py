"""The gate on a few examples whose flips are counted by hand, and every field of a plan that it compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustatt.errors import InputError
from robustatt.results import gate
from robustatt.results.gate import Change, CheckResult, PointCheck, check, judge, plan_changes
from robustatt.results.reference import Identity, MadeBy, Reference, ReferenceCurve
from robustatt.results.summary import Summary

EPS = ("0/255", "1/255", "2/255")
WHOLE = {"data": {"name": "d"}, "seed": 0}

Rows = dict[tuple[str, str], Sequence[str]]
"""By model and attack: a text for each radius, with a 1 for each example that is right."""


def right(rows: Sequence[str]) -> np.ndarray:
    return np.array([[mark == "1" for mark in row] for row in rows]).T


def reference_of(rows: Rows, **identity: Any) -> Reference:
    """With the examples 10, 11, ... in descending order."""
    curves = []
    for (model, attack), marks in rows.items():
        correct = right(marks)[::-1]
        curves.append(ReferenceCurve(model, attack, EPS, np.arange(len(correct))[::-1] + 10, correct))
    return Reference(identity_of(**WHOLE | identity), MadeBy(), tuple(curves))


def identity_of(**fields: Any) -> Identity:
    return Identity.model_validate({"data": {}, "models": {}, "attacks": {}, "eps": [], **fields})


def records_of(rows: Rows, eps: Sequence[str] = EPS) -> pd.DataFrame:
    frames = []
    for (model, attack), marks in rows.items():
        for text, mark in zip(eps, marks, strict=True):
            wrong = [int(one == "0") for one in mark]
            clean = [int(one == "0") for one in marks[0]]
            index = np.arange(len(mark)) + 10
            frames.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "attack": attack,
                        "eps": text,
                        "index": index,
                        "label": 0,
                        "clean_pred": clean,
                        "adv_pred": wrong,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def compare(run: Rows, was: Rows, **asked: Any) -> CheckResult:
    return check(records_of(run), Summary.parse({"schema": 1, "plan": WHOLE}, "plan"), reference_of(was), **asked)


WAS: Rows = {
    ("m", "a"): ("11111111", "11111111", "11110000"),
    ("m", "b"): ("11111111", "11110000", "00000000"),
    ("n", "a"): ("01111111", "00000001", "00000000"),
}


def test_points_by_hand() -> None:
    run: Rows = {
        ("m", "a"): ("01111111", "00000111", "01111110"),
        ("m", "b"): ("01111111", "01111000", "00000000"),
        ("n", "a"): ("01111111", "01111111", "00000000"),
    }
    result = compare(run, WAS, max_drop=50.0, alpha=0.125)
    assert result.points == (
        PointCheck("m", "no attack", "0/255", 8, 1.0, 0.875, 1, 0, 0.5, 1.0, "noise"),
        PointCheck("m", "a", "1/255", 8, 1.0, 0.375, 5, 0, 0.03125, 0.0625, "regression"),
        PointCheck("m", "a", "2/255", 8, 0.5, 0.75, 1, 3, 0.3125, 1.0, "noise"),
        PointCheck("m", "b", "1/255", 8, 0.5, 0.5, 1, 1, 0.75, 1.0, "noise"),
        PointCheck("m", "b", "2/255", 8, 0.0, 0.0, 0, 0, 1.0, 1.0, "same"),
        PointCheck("n", "no attack", "0/255", 8, 0.875, 0.875, 0, 0, 1.0, 1.0, "same"),
        PointCheck("n", "a", "1/255", 8, 0.125, 0.875, 0, 6, 0.015625, 0.03125, "improvement"),
        PointCheck("n", "a", "2/255", 8, 0.0, 0.0, 0, 0, 1.0, 1.0, "same"),
    )
    assert (result.verdict, result.exit_code, result.tested) == ("regression", 1, 2)
    assert (result.max_drop, result.alpha, result.changes, result.noted) == (50.0, 0.125, (), ())
    assert result.headline == "regression: m under a at 1/255: 100.0 % to 37.5 % (-62.5 points, 5 lost, 0 gained, p = 0.062)"
    assert [point.attack for point in result.of("noise")] == ["a", "no attack", "b"]  # the largest change first


def test_two_tested_losses_are_corrected_for_and_counted_in_the_headline() -> None:
    run = WAS | {("m", "a"): ("11111111", "00000000", "00000000")}
    result = compare(run, WAS, alpha=0.125)
    assert [(p.p, p.p_holm) for p in result.points[1:3]] == [(2**-8, 2**-7), (2**-4, 2**-4)]
    assert (result.tested, result.verdict) == (2, "regression")
    assert result.headline.endswith("(-100.0 points, 8 lost, 0 gained, p = 0.0078), and 1 more")


def test_improvement_and_sameness_pass_with_their_counts() -> None:
    better = compare(WAS | {("n", "a"): ("01111111", "01111111", "00000000")}, WAS, alpha=0.02)
    assert (better.verdict, better.exit_code) == ("improvement", 0)
    assert better.headline == "improvement: n under a at 1/255: 12.5 % to 87.5 % (+75.0 points, 0 lost, 6 gained, p = 0.016)"
    same = compare(WAS, WAS)
    assert (same.verdict, same.tested, same.headline) == ("same", 0, "passed: every outcome is as in the reference (8 points)")
    noise = compare(WAS | {("m", "b"): ("11111111", "11111000", "00000000")}, WAS)
    assert (noise.verdict, noise.headline) == ("noise", "passed: at most 1 of 8 examples changed sides, within noise")


@pytest.mark.parametrize(
    ("lost", "gained", "p", "verdict"),
    [
        (0, 0, 0.001, "same"),
        (2, 2, 0.001, "noise"),
        (4, 0, 0.01, "regression"),
        (0, 4, 0.01, "improvement"),
        (5, 2, 0.01, "noise"),  # a loss of exactly the floor
        (4, 0, 0.011, "noise"),
    ],
)
def test_a_point_is_judged_by_floor_and_p(lost: int, gained: int, p: float, verdict: str) -> None:
    assert judge(lost, gained, 100, p, 3.0, 0.01) == verdict


@pytest.mark.parametrize(("alpha", "max_drop"), [(0.0, 1.0), (1.0, 1.0), (1.5, 1.0), (0.01, -1.0), (0.01, 100.5)])
def test_impossible_limits_are_refused(alpha: float, max_drop: float) -> None:
    with pytest.raises(InputError, match="alpha must lie"):
        compare(WAS, WAS, alpha=alpha, max_drop=max_drop)


def test_a_loss_of_more_than_a_point_at_one_percent_is_a_regression_by_default() -> None:
    marks = "1" * 500
    was: Rows = {("m", "a"): (marks, marks, marks)}
    for lost, verdict in ((5, "noise"), (7, "regression")):
        assert compare({("m", "a"): (marks, "0" * lost + marks[lost:], marks)}, was).verdict == verdict
    assert compare({("m", "a"): (marks, "0" * 6 + marks[6:], marks)}, was).verdict == "noise", "p is 1/64"


def test_of_no_points_none_is_testable() -> None:
    able = gate.testable(np.array([], dtype=np.int64), 0.05)
    assert (able.size, able.dtype) == (0, bool)


@pytest.mark.parametrize("max_drop", [0.0, 100.0])
def test_limits_at_their_ends_are_allowed(max_drop: float) -> None:
    assert compare(WAS, WAS, max_drop=max_drop).exit_code == 0


def test_records_that_are_not_there_are_named() -> None:
    alone: Rows = {("m", "a"): WAS["m", "a"]}
    where, wanted = "records of m under a", "8 examples at 3 radii"
    summary = Summary.parse({"schema": 1, "plan": WHOLE}, "plan")
    records = records_of(alone)
    for run, kind, found in (
        (records.assign(attack="other"), "incomplete", "none"),
        (records.assign(model="other"), "incomplete", "none"),
        (records.drop(index=9), "incomplete", "7 complete at 3 radii"),
        (records[records["index"] != 12], "missing", "7 complete at 3 radii"),
        (records.assign(index=records["index"] + 1), "missing", "8 complete at 3 radii"),
        (records[records["eps"] != "2/255"], "missing", "8 complete at 2 radii"),
    ):
        result = check(run, summary, reference_of(alone))
        assert result.changes == (Change(kind, where, wanted, found),)
        assert (result.verdict, result.exit_code, result.points, result.tested) == ("changed plan", 2, (), 0)
        assert result.headline == f"not comparable: {where}: the reference has {wanted}, this run has {found}"
    none = check(records.assign(model="o"), summary, reference_of(WAS))
    assert len(none.changes) == 1, "the first that is not there"
    other = check(records.assign(model="o"), summary, reference_of(alone, seed=1))
    assert other.changes == (Change("seed", "seed", "1", "0"),), "of another plan the records need not be there"
    several = check(records, summary, reference_of(alone, seed=1, evaluation="4", data={"name": "e"}), 2.0, 0.05, allow=["data"])
    assert (several.noted, several.max_drop, several.alpha) == ((Change("data", "data (name)", "e", "d"),), 2.0, 0.05)
    assert several.headline == "not comparable: seed: the reference has 1, this run has 0, and 1 more"


def test_more_examples_are_another_data_set_and_more_radii_are_not() -> None:
    summary = Summary.parse({"schema": 1, "plan": WHOLE}, "plan")
    alone: Rows = {("m", "a"): WAS["m", "a"]}
    more = records_of({("m", "a"): ("11111111", "11111111", "11111111", "11110000")}, ("0/255", "1/255", "1.5/255", "2/255"))
    assert check(more, summary, reference_of(alone)).verdict == "same"
    assert check(more[more["eps"] != "1.5/255"].replace({"index": {17: 18}}), summary, reference_of(alone)).exit_code == 2


def test_every_field_of_a_plan_is_compared() -> None:
    was = {
        "data": {"name": "digits", "split": "test", "n": 100, "fingerprint": "d1", "classes": 10},
        "models": {"gone": {"fingerprint": "w2"}, "m": {"fingerprint": "w1"}, "kept": {"fingerprint": "w3"}},
        "attacks": {"pgd": {"norm": "linf", "fingerprint": "a1"}, "lost": {}, "same": {"norm": "l2"}},
        "eps": ["1/255", "0.5/255", "2/255"],
        "seed": 0,
        "evaluation": "4",
        "semantics": 4,
    }
    now = {
        "data": {"name": "cifar10", "split": "test", "n": 90, "fingerprint": "d2", "extra": 1},
        "models": {"m": {"fingerprint": "w9"}, "kept": {"fingerprint": "w3"}, "new": {}},
        "attacks": {"pgd": {"norm": "l2", "fingerprint": "a1", "radii": ["1/255"]}, "same": {"norm": "l2"}, "more": {}},
        "eps": ["0.50/255"],
        "seed": 1,
        "evaluation": "5",
    }
    assert plan_changes(identity_of(**was), identity_of(**was)) == []
    assert plan_changes(identity_of(**was), identity_of(**now)) == [
        Change("data", "data (name)", "digits", "cifar10"),
        Change("data", "data (n)", "100", "90"),
        Change("data", "data (fingerprint)", "d1", "d2"),
        Change("data", "data (classes)", "10", "none"),
        Change("missing", "model gone", "it", "nothing of that name"),
        Change("weights", "weights of m (fingerprint)", "w1", "w9"),
        Change("attack", "pgd (norm)", "linf", "l2"),
        Change("attack", "pgd (radii)", "none", "['1/255']"),
        Change("missing", "attack lost", "it", "nothing of that name"),
        Change("eps", "eps", "1/255, 2/255", "no such radius"),
        Change("seed", "seed", "0", "1"),
        Change("evaluation", "evaluation", "4", "5"),
        Change("evaluation", "semantics", "4", "None"),
    ]
    assert plan_changes(identity_of(), identity_of(**now | {"seed": None, "evaluation": None})) == []
    assert [change.field for change in plan_changes(identity_of(**was), identity_of())][-1] == "semantics"


def test_the_same_images_are_the_same_data_whatever_they_are_called() -> None:
    was = identity_of(data={"name": "here", "split": "test", "n": 100, "fingerprint": "d1", "classes": 10})
    assert plan_changes(was, identity_of(data={"name": "there", "n": 100, "fingerprint": "d1", "classes": 10})) == []
    other = plan_changes(was, identity_of(data={"name": "there", "n": 90, "fingerprint": "d1", "classes": 9}))
    assert [change.field for change in other] == ["data (n)", "data (classes)"]
    unknown = plan_changes(identity_of(data={"name": "here"}), identity_of(data={"name": "there"}))
    assert unknown == [Change("data", "data (name)", "here", "there")], "without a fingerprint the name decides"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 24, "x" * 24),
        ("x" * 15 + "yz" + "x" * 8, "x" * 15 + "y…"),
        ("/data/" + "x" * 18, "/data/" + "x" * 18),
        ("/data/" + "x" * 19, "…ata/" + "x" * 19),
    ],
)
def test_a_long_value_is_cut_where_it_says_least(value: str, shown: str) -> None:
    (change,) = plan_changes(identity_of(models={"m": {"fingerprint": value}}), identity_of(models={"m": {}}))
    assert (change.reference, change.run) == (shown, "none")
