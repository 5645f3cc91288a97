"""Intervals that hold although one looks again and again, and the rule by which precision ends a sweep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import betaln
from scipy.stats import binom
from sequential_coverage import COSTS, looks, timed, until

from robustatt.errors import InputError
from robustatt.plan import Limits
from robustatt.plan.plan import Plan
from robustatt.results.confidence_sequence import anytime
from robustatt.results.precision import FEWEST, cautious_half_width, enough_examples, narrow_enough, rounds_said
from robustatt.results.statistics import wilson
from robustatt.results.summary import Summary


def at_least(share: float, runs: int, coverage: float) -> bool:
    """Whether a simulated share is no evidence against a coverage: one in ten thousand is less."""
    return bool(binom.cdf(round(share * runs), runs, coverage) > 1e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (450, 1000), (1, 5000), (0, 0)])
def test_anytime_is_where_the_likelihood_ratio_reaches_20(k: int, n: int) -> None:
    def excess(p: float) -> float:
        return float(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5) - k * np.log(p) - (n - k) * np.log1p(-p) - np.log(20))

    low, high = (float(limit[0]) for limit in anytime([k], [n]))
    share = min(max(k / n if n else 0.5, 1e-12), 1 - 1e-12)
    assert low == (pytest.approx(brentq(excess, 1e-12, share), abs=1e-9) if k else 0)
    assert high == (pytest.approx(brentq(excess, share, 1 - 1e-12), abs=1e-9) if k < n else 1)


@given(st.integers(1, 5000), st.data())
def test_anytime_holds_the_share_and_is_symmetric_and_wider_than_wilson(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    (low,), (high,) = anytime([k], [n])
    (other_low,), (other_high,) = anytime([n - k], [n])
    assert 0 <= low <= k / n <= high <= 1
    assert (low, high) == pytest.approx((1 - other_high, 1 - other_low), abs=1e-9)
    assert high - low >= np.subtract(*wilson([k], [n])[::-1])[0]


@pytest.mark.parametrize(("k", "n"), [(5, 4), (-1, 4), (0, -1)])
def test_anytime_of_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        anytime([k], [n])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_anytime_ever_misses_in_at_most_one_run_of_twenty(share: float) -> None:
    """Exactly: the chance of every path through the first 400 images, looked at after each."""
    alive, missed = np.ones(1), 0.0
    for n in range(1, 401):
        alive = np.convolve(alive, [1 - share, share])
        low, high = anytime(np.arange(n + 1), n)
        outside = (share < low) | (share > high)
        missed += alive[outside].sum()
        alive[outside] = 0
    assert 0 < missed < 0.05


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("points", [2, 10])
def test_intervals_cover_where_precision_ends_a_sweep(share: float, points: float) -> None:
    runs = 2000
    found = until(share, points, runs, seed=1, of=6000)
    assert at_least(found.wilson, runs, 0.945)
    assert at_least(found.every_look_anytime, runs, 0.95)


def test_looking_at_wilson_again_and_again_would_mislead() -> None:
    assert until(0.5, 2, 1000, seed=1, of=6000).every_look_wilson < 0.8


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_intervals_cover_where_time_ends_a_sweep_whose_hard_images_cost_more(share: float) -> None:
    runs = 1000
    assert COSTS[1] == 5 * COSTS[0]
    covered, mean, n, longest = timed(share, 300, runs, seed=2)
    assert at_least(covered, runs, 0.945)
    assert mean == pytest.approx(share, abs=4 * (share * (1 - share) / n / runs) ** 0.5 + 0.002)
    assert longest < 330


def test_looks_begin_early_and_are_few() -> None:
    assert looks(1000) == [16, 32, 64, 128, 256, 512, 768, 1000]


def test_the_cautious_width_is_that_of_the_end_nearest_one_half() -> None:
    low, high = wilson([2, 32, 62], [64, 64, 64])
    plain = (high - low) / 2
    cautious = cautious_half_width(low, high, [64, 64, 64])
    assert cautious[1] == pytest.approx(plain[1])
    assert (cautious[[0, 2]] > plain[[0, 2]] * 1.2).all()
    assert cautious[0] == pytest.approx(cautious[2])


def summary(n: int, right: int, stopped: dict[str, object] | None = None) -> Summary:
    (low,), (high,) = wilson([right], [n])
    point = {"eps": "8/255", "n": n, "accuracy": right / n, "ci_low": low, "ci_high": high, "worst_case_accuracy": right / n,
             "fooling_rate": 0.0}  # fmt: skip
    flat = point | {"accuracy": 1.0, "ci_low": float(wilson([n], [n])[0][0]), "ci_high": 1.0, "worst_case_accuracy": 1.0}
    content = {
        "schema": 1, "plan": {"data": {"n": n}, "rounds": {"ends": [16, n], "of": 5000, "time": "20s", "until": "4"}},
        "curves": [{"model": "a", "attack": "pgd", "points": [point]}, {"model": "b", "attack": "pgd", "points": [flat]}],
        **({} if stopped is None else {"stopped": stopped}),
    }  # fmt: skip
    return Summary.parse(content, "test")


def test_every_interval_counts_or_the_one_that_is_named() -> None:
    wide = summary(200, 100)
    assert not narrow_enough(wide, Limits(until="4"))
    assert narrow_enough(wide, Limits(until="4:b/pgd"))
    assert narrow_enough(wide, Limits(until="7"))
    assert not narrow_enough(wide, Limits(time="1s"))
    assert not narrow_enough(wide, None)
    assert not narrow_enough(summary(63, 63), Limits(until="40")), "too few examples"


def test_what_is_said() -> None:
    def said(stopped: dict[str, object] | None) -> str:
        found = summary(200, 100, stopped)
        return rounds_said(found.plan, found.stopped)

    assert said(None).endswith("the sweep is running, or was interrupted.")
    assert said({"reason": "time", "seconds": 19.5}).endswith("Stopped after 19.5 s: the time (20s) was up.")
    assert said({"reason": "time", "seconds": 21.5}).endswith("Stopped after 21.5 s, 1.5 s late: the time (20s) was up.")
    assert said({"reason": "until", "seconds": 1.0}).endswith("no interval is wider than 4 points to either side.")
    assert said({"reason": "all", "seconds": 1.0}).startswith(
        "200 of 5,000 examples, in a random order (seed 0), with a look after each of 2 rounds."
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("45", 45), ("0.5m", 30), (12.5, 12.5)]
)
def test_times(text: str | float, seconds: float) -> None:
    limits = Limits.parse(text, None)
    assert limits is not None
    assert limits.seconds == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "abc", "-5s", "10 m", "10m5", "1e3", "nan", "5y"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--time"):
        Limits.parse(text, None)


def test_a_plan_file_has_limits(tmp_path: object) -> None:  # noqa: ARG001
    document = {"models": ["vgg"], "attacks": ["fgsm"], "time": "10m", "until": 2}
    plan = Plan.from_toml(document, "plan")
    assert plan.limits == Limits("10m", "2")
    assert Plan.from_toml(plan.to_toml(), "again") == plan
    with pytest.raises(InputError, match=r"key 'time' has the wrong type"):
        Plan.from_toml(document | {"time": True}, "plan")


@pytest.mark.parametrize("half_width", [0.005, 0.01, 0.02, 0.05, 0.1])
def test_so_many_examples_are_enough_and_one_fewer_is_not(half_width: float) -> None:
    enough = enough_examples(half_width)
    widths = {}
    for n in (enough, enough - 1):
        low, high = wilson(n / 2, n)
        widths[n] = float(high - low) / 2
    assert widths[enough] <= half_width
    assert widths[enough - 1] > half_width or enough == FEWEST
