"""The gate before all examples are done: probabilities by enumeration, the rule by hand, and how often it errs."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustatt.plan.rounds import sizes
from robustatt.results import gate, statistics
from robustatt.results.early_gate import Look, fewer_drawn, least_lost
from robustatt.results.reference import MadeBy, Reference, ReferenceCurve, identity
from robustatt.results.summary import Summary


def looks(of: int) -> list[Look]:
    ends = [0]
    while ends[-1] < of:
        ends.append(ends[-1] + next(sizes(ends[-1], of)))
    return [Look(done, of, before) for before, done in pairwise(ends)]


@given(st.integers(1, 8), st.data())
def test_draws_are_counted_as_they_are_enumerated(of: int, data: st.DataObject) -> None:
    marked, drawn = data.draw(st.integers(0, of)), data.draw(st.integers(0, of))
    counts = [sum(thing < marked for thing in chosen) for chosen in combinations(range(of), drawn)]
    for most in range(drawn + 1):
        assert fewer_drawn(most, marked, drawn, of) == pytest.approx(np.mean(np.array(counts) <= most))


@pytest.mark.parametrize(
    ("gained", "n", "max_drop", "alpha", "least"),
    [(0, 60, 1.0, 0.01, 7), (0, 1000, 1.0, 0.01, 11), (0, 1000, 0.0, 0.5, 1), (0, 1000, 3.0, 0.01, 31), (5, 1000, 0.0, 0.01, 17)],
)
def test_the_fewest_losses_that_are_a_regression(gained: int, n: int, max_drop: float, alpha: float, least: int) -> None:
    """0.5^7 < 0.01 < 0.5^6; more than a point of 1,000 is 11; with 5 gained, 17 lost are p = 0.0085 and 16 are 0.013."""
    assert least_lost(gained, n, max_drop, alpha) == least
    for lost, verdict in ((least, "regression"), (least - 1, "noise")):
        p = float(statistics.mcnemar_one_sided(lost, gained))
        assert gate.judge(lost, gained, n, p if lost > gained else 1.0, max_drop, alpha) in (verdict, "same")


@given(st.integers(0, 40), st.sampled_from([200, 1000]), st.floats(0, 5), st.floats(0.001, 0.2))
def test_more_gains_need_more_losses(gained: int, n: int, max_drop: float, alpha: float) -> None:
    assert least_lost(gained + 1, n, max_drop, alpha) > least_lost(gained, n, max_drop, alpha)


@pytest.mark.parametrize("of", [1, 16, 17, 60, 200, 1000, 10_000])
def test_all_looks_together_spend_no_more_than_alpha(of: int) -> None:
    assert math.fsum(look.spends(0.01) for look in looks(of)) == pytest.approx(0.01)
    assert math.fsum(look.alarm_level(0.01) for look in looks(of)) == pytest.approx(0.005)


@pytest.mark.parametrize(("lost", "gained"), [(11, 0), (20, 5), (40, 0)])
def test_what_would_alarm_in_the_end_passes_early_in_fewer_than_alpha(lost: int, gained: int) -> None:
    """One point that is a regression at the end, in 2,000 random orders; more points can only delay a pass."""
    of, runs, rng, passed = 1000, 2000, np.random.default_rng(0), 0
    assert lost >= least_lost(gained, of, 1.0, 0.01)
    outcome = np.repeat([0, 1, 2], [lost, gained, of - lost - gained])
    for _ in range(runs):
        order = rng.permutation(outcome)
        counts = [((order[: look.done] == 0).sum(), (order[: look.done] == 1).sum(), look) for look in looks(of)[:-1]]
        passed += any(look.passes(np.array([down]), np.array([up]), 1.0, 0.01)[0] for down, up, look in counts)
    assert float(statistics.wilson(passed, runs)[0]) <= 0.01


def test_nothing_lost_passes_when_half_is_done() -> None:
    nothing = np.zeros(64, dtype=np.int64)
    decided = [look.done for look in looks(1000)[:-1] if look.passes(nothing, nothing, 1.0, 0.01).all()]
    assert decided[0] == 512


# In the records of a sweep in rounds -----------------------------------------------------------------------------


def run_of(wrong: int, ends: list[int], of: int, clean: int = 0) -> tuple[pd.DataFrame, Summary]:
    """The first examples of a shuffled data set, of which some are wrong at the only radius."""
    index = np.random.default_rng(1).permutation(of)[: ends[-1]]
    predicted = np.zeros(len(index), dtype=int)
    predicted[:wrong] = 1
    frames = [
        pd.DataFrame({"model": "m", "attack": "a", "eps": eps, "index": index, "label": 0, "clean_pred": clean, "adv_pred": now})
        for eps, now in (("0/255", 0), ("1/255", predicted))
    ]
    plan = {
        "data": {"name": "d", "n": ends[-1], "fingerprint": "shuffled"}, "models": [{"name": "m"}], "attacks": [{"name": "a"}],
        "eps": ["1/255"], "rounds": {"ends": ends, "of": of, "whole": "in order"},
    }  # fmt: skip
    return pd.concat(frames, ignore_index=True), Summary.parse({"schema": 2, "plan": plan}, "the test")


def reference_of(of: int) -> Reference:
    """All right; made by a sweep that took the examples in the order of the data."""
    plan = run_of(0, [of], of)[1].plan
    usual = plan.model_copy(update={"rounds": None, "data": plan.data.model_copy(update={"fingerprint": "in order"})})
    curve = ReferenceCurve("m", "a", ("0/255", "1/255"), np.arange(of), np.ones((of, 2), dtype=bool))
    return Reference(identity(usual), MadeBy(), (curve,))


@pytest.mark.parametrize(
    ("wrong", "ends", "verdict", "code"),
    [
        (0, [16, 32, 64, 128], "same", 0),
        (0, [16, 32, 64], "undecided", 3),
        (2, [16, 32, 64, 128], "undecided", 3),
        (16, [16], "regression", 1),
        (10, [16], "undecided", 3),
        (60, [16, 32, 64, 128], "regression", 1),
        (7, [16, 32, 64, 128, 200], "regression", 1),
        (6, [16, 32, 64, 128, 200], "noise", 0),
    ],
)
def test_a_run_that_ended_early_is_judged_by_the_examples_done(wrong: int, ends: list[int], verdict: str, code: int) -> None:
    """Of 200 examples 7 lost are the fewest that are a regression; the last look is the ordinary check."""
    found = gate.check(*run_of(wrong, ends, 200), reference_of(200))
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert (found.look is None) == (ends[-1] == 200)
    if found.look is not None:
        assert f"after {ends[-1]} of 200 examples" in found.headline


def test_examples_that_the_reference_does_not_have_are_another_plan() -> None:
    records, summary = run_of(0, [16], 200)
    assert gate.check(records.assign(index=records["index"] + 1000), summary, reference_of(200)).verdict == "changed plan"
    assert gate.check(records, summary, reference_of(150)).verdict == "changed plan"
