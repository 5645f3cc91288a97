"""How sure a summary is: the widest interval of its curves, whether it is narrow enough to stop, and where each curve stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustatt.eps import headline_radius
from robustatt.plan.limits import Limits
from robustatt.results import statistics
from robustatt.results.part import in_percent
from robustatt.results.summary import Curve, Summary

FEWEST = 64
"""Examples before precision may end a sweep: intervals of fewer are narrow by luck."""


@dataclass(frozen=True)
class Standing:
    """Accuracy of one curve at its headline radius, with an interval that holds at every look (`statistics.anytime`)."""

    model: str
    attack: str
    eps: str
    n: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.model} {self.attack} {self.eps}: {in_percent(self.accuracy, self.low, self.high)}"


def standings(summary: Summary) -> Iterator[Standing]:
    """Where each curve stands, however often one looks."""
    for curve in summary.curves:
        eps = headline_radius([point.eps for point in curve.points], curve.norm)
        point = next(point for point in curve.points if eps in (None, point.eps))
        low, high = statistics.anytime([round(point.accuracy * point.n)], [point.n])
        yield Standing(curve.model, curve.attack, point.eps, point.n, point.accuracy, float(low[0]), float(high[0]))


def widest(summary: Summary, only: tuple[str, str] | None = None) -> float:
    """Half the width of the widest interval of accuracy of all curves, or of one (model, attack); 1.0 without any."""
    curves: list[Curve] = [*summary.curves, *(() if only else summary.transfer)]
    chosen = [curve for curve in curves if only in (None, (curve.model, curve.attack))]
    return max(((point.ci_high - point.ci_low) / 2 for curve in chosen for point in curve.points), default=1.0)


def narrow_enough(summary: Summary, limits: Limits | None) -> bool:
    """Whether precision ends the sweep: see docs/method.md on why intervals still cover then."""
    if limits is None or limits.half_width is None:
        return False
    return (summary.plan.data.n or 0) >= FEWEST and widest(summary, limits.curve) <= limits.half_width
