"""One comparison that a claim of the paper rests on: what the paper says, what was measured here, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustatt.results import statistics
from robustatt.results.statistics import Estimate

HELD, REVERSED, OPEN = "**held here**", "**did not hold here** (the reverse was measured)", "**not decided here**"
UNTESTED = "not tested here"
SIGNIFICANT = 0.05
SHORT = {HELD: "held", REVERSED: "reversed", OPEN: "not decided", UNTESTED: UNTESTED}


@dataclass(frozen=True)
class Finding:
    """A comparison, for example ``what`` = "`vgg_att2` against `vgg`".

    ``paper`` is its number there, empty where unknown; ``here`` ours with its interval; ``why`` the reason for a
    comparison that was not tested, or what has to be known to read the number.
    """

    what: str
    paper: str = ""
    here: str = ""
    verdict: str = UNTESTED
    why: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its findings, what has to be said with them, and the commands the numbers come from."""

    number: int
    title: str
    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()

    def summary(self) -> str:
        """How many comparisons held, in words."""
        counts = {word: sum(SHORT[entry.verdict] == word for entry in self.findings) for word in SHORT.values()}
        return ", ".join(f"{word}: {count}" for word, count in counts.items() if count) or UNTESTED


def verdict(change: Estimate, p: float = 0.0) -> str:
    """Held where the whole interval is above 0, reversed where it is below, otherwise open.

    ``p``: of a test adjusted for all comparisons made with it; above 0.05 nothing is decided.
    """
    if p > SIGNIFICANT:
        return OPEN
    if change.low > 0:
        return HELD
    return REVERSED if change.high < 0 else OPEN


def negative(change: Estimate) -> Estimate:
    """The same difference the other way round."""
    return Estimate(-change.value, -change.high, -change.low)


def signed(share: float) -> str:
    """A difference of shares in points."""
    return f"{100 * share:+.1f}"


def points(change: Estimate) -> str:
    """A difference of shares in points, with its interval."""
    return f"{signed(change.value)} points ({signed(change.low)} to {signed(change.high)})"


def difference(right: int, other: int, n: int) -> Estimate:
    """The difference of two shares of n by Newcombe's score interval for independent samples (1998, method 10).

    On the same images it is wider than the paired one, for which the predictions would be needed.
    """
    (a, b), (low, high) = (right / n, other / n), statistics.wilson([right, other], [n, n])
    down = math.hypot(a - float(low[0]), float(high[1]) - b)
    up = math.hypot(float(high[0]) - a, b - float(low[1]))
    return Estimate(a - b, a - b - down, a - b + up)
