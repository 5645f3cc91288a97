"""What a claim of the paper is judged by, and what a judgement is: what the paper says, what was measured, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.models.card import Card
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import Estimate

if TYPE_CHECKING:
    from robustatt.studies.segment.result import SegmentSummary
    from robustatt.studies.transfer.result import Transfer

ATTENTION = ("vgg_att1", "vgg_att2", "vgg_att3")
PLAIN = "vgg"
WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "cifar10"
Curves = Mapping[tuple[str, str], Outcomes]
"""Outcomes by model and attack."""

HELD, REVERSED, OPEN = "**held here**", "**did not hold here** (the reverse was measured)", "**not decided here**"
UNTESTED = "not tested here"
SIGNIFICANT = 0.05
SHORT = {HELD: "held", REVERSED: "reversed", OPEN: "not decided", UNTESTED: UNTESTED}


@dataclass(frozen=True)
class Evidence:
    """Of CIFAR-10: the cards of the trained networks by name, and the curves of a sweep."""

    cards: Mapping[str, Card]
    curves: Curves = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What there is to judge by; None or missing where nothing was measured.

    ``sweep``: of ``sweep_name``, CIFAR-10, with the cards; ``fine``: curves of the fine-grained sweep; ``segments``:
    segment.json by data set; ``absent``: why a data set was not measured, by the part of the plan and its name there.
    """

    sweep: Evidence
    sweep_name: str = "cifar10"
    fine: Curves = field(default_factory=dict)
    fine_name: str = ""
    transfer: Transfer | None = None
    transfer_names: Sequence[str] = ()
    segments: Mapping[str, SegmentSummary] = field(default_factory=dict)
    segment_names: Sequence[str] = ()
    absent: Mapping[tuple[str, str], str] = field(default_factory=dict)


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


def share(right: int, n: int, sign: str = " %") -> str:
    """A share in per cent with Wilson's interval."""
    low, high = statistics.wilson(right, n)
    return f"{100 * right / n:.1f}{sign} ({100 * float(low):.1f} to {100 * float(high):.1f})"


def signed(change: float) -> str:
    """A difference of shares in points."""
    return f"{100 * change:+.1f}"


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
