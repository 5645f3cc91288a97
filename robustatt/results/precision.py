"""How sure a summary is: the widest interval of its curves, whether it is narrow enough to stop, and where each curve stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustatt.eps import headline_radius, parse_radius
from robustatt.plan.limits import Limits
from robustatt.results import statistics
from robustatt.results.confidence_sequence import anytime
from robustatt.results.part import in_percent
from robustatt.results.plan_info import PlanInfo
from robustatt.results.summary import Curve, Stopped, Summary

FEWEST = 64
"""Examples before precision may end a sweep: intervals of fewer are narrow by luck."""


@dataclass(frozen=True)
class CurveSoFar:
    """Accuracy of one curve at its headline radius, with an interval that holds at every look (`confidence_sequence.anytime`)."""

    model: str
    attack: str
    eps: str
    n: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        at = self.eps if parse_radius(self.eps) else "clean"
        return f"{self.model} {self.attack} {at}: {in_percent(self.accuracy, self.low, self.high)}"


def curves_so_far(summary: Summary) -> Iterator[CurveSoFar]:
    """Where each curve stands, however often one looks."""
    for curve in summary.curves:
        eps = headline_radius([point.eps for point in curve.points], curve.norm)
        point = next(point for point in curve.points if eps in (None, point.eps))
        low, high = anytime([round(point.accuracy * point.n)], [point.n])
        yield CurveSoFar(curve.model, curve.attack, point.eps, point.n, point.accuracy, float(low[0]), float(high[0]))


def rounds_said(plan: PlanInfo, stopped: Stopped | None) -> str:
    """Of a sweep in rounds how many examples are done, how often one looked, and why it stopped; empty for any other."""
    rounds = plan.rounds
    if rounds is None:
        return ""
    done, looks = (rounds.ends[-1] if rounds.ends else 0), len(rounds.ends)
    after = f", with a look after each of {looks} rounds" if looks > 1 else ""
    taken = f"{done:,} of {rounds.of:,} examples, in a random order (seed {plan.seed}){after}."
    return f"{taken} {_why(plan, stopped)}"


def _why(plan: PlanInfo, stopped: Stopped | None) -> str:
    if stopped is None or plan.rounds is None:
        return "No limit has ended it: the sweep is running, or was interrupted."
    if stopped.reason == "all":
        return "All examples are done."
    if stopped.reason == "gate":
        return f"Stopped: the verdict of the gate against {plan.rounds.against.reference if plan.rounds.against else 'a reference'} is known."
    if stopped.reason == "until":
        points, _, curve = (plan.rounds.until or "").partition(":")
        return f"Stopped: no interval{f' of {curve}' if curve else ''} is wider than {points} points to either side."
    seconds = Limits(plan.rounds.time).seconds if plan.rounds.time else None
    late = "" if seconds is None or stopped.seconds <= seconds else f", {stopped.seconds - seconds:.1f} s late"
    return f"Stopped after {stopped.seconds:.1f} s{late}: the time ({plan.rounds.time}) was up."


def cautious_half_width(low: ArrayLike, high: ArrayLike, n: ArrayLike) -> NDArray[np.float64]:
    """Half the width of Wilson's interval if accuracy were at that end of ``[low, high]`` where it is widest, elementwise.

    A share that is near 0 or 1 by luck has a narrow interval. Stopping on that width would stop the unlucky runs too early.
    """
    share = np.clip(0.5, np.asarray(low, np.float64), np.asarray(high, np.float64))
    lower, upper = statistics.wilson(share * np.asarray(n), n)
    return np.asarray((upper - lower) / 2)


def widest(summary: Summary, only: tuple[str, str] | None = None) -> float:
    """Half the width, cautiously, of the widest interval of accuracy of all curves, or of one (model, attack); 1.0 without any."""
    curves: list[Curve] = [*summary.curves, *(() if only else summary.transfer)]
    points = [point for curve in curves if only in (None, (curve.model, curve.attack)) for point in curve.points]
    if not points:
        return 1.0
    low, high, n = np.array([(point.ci_low, point.ci_high, point.n) for point in points]).T
    return float(cautious_half_width(low, high, n).max())


def enough_examples(half_width: float) -> int:
    """How many examples make every 95 % interval (Wilson) at most this wide to either side, whatever the accuracy.

    It is widest at 1/2, where half the width is z / (2 sqrt(n + z^2)).
    """
    z = statistics.two_sided(0.95)
    return max(FEWEST, math.ceil(z**2 * (1 / (4 * half_width**2) - 1)))


def narrow_enough(summary: Summary, limits: Limits | None) -> bool:
    """Whether precision ends the sweep: see docs/method.md on why intervals still cover then."""
    if limits is None or limits.half_width is None:
        return False
    return (summary.plan.data.n or 0) >= FEWEST and widest(summary, limits.curve) <= limits.half_width
