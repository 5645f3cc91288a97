"""What a claim of the paper is judged by, and what a judgement is: what the paper says, what was measured, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robustatt.models.card import Card
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import Estimate
from robustatt.studies.seeds import SeedComparison

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.studies.segment.result import SegmentSummary
    from robustatt.studies.transfer.result import Transfer

ATTENTION = ("vgg_att1", "vgg_att2", "vgg_att3")
PLAIN = "vgg"
Curves = Mapping[tuple[str, str], Outcomes]
"""Outcomes by model and attack."""

HELD, REVERSED, OPEN = "**held here**", "**did not hold here** (the reverse was measured)", "**not decided here**"
ONE_SEED = "**one seed**"
UNTESTED = "not tested here"
SIGNIFICANT = 0.05
SHORT = {HELD: "held", REVERSED: "reversed", OPEN: "not decided", ONE_SEED: "one seed", UNTESTED: UNTESTED}


@dataclass(frozen=True)
class Swept:
    """A sweep of one data set: the cards of its networks by label, and its curves.

    ``whole``: all test images were attacked. ``absent``: why it was not measured, if so.
    """

    data: str
    cards: Mapping[str, Card] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    whole: bool = False
    absent: str = ""


@dataclass(frozen=True)
class Localised:
    """What `segment` measured on a data set: segment.json, and a row for each image, network, map and radius."""

    summary: SegmentSummary
    images: pd.DataFrame


@dataclass(frozen=True)
class Measured:
    """What there is to judge by; None or missing where nothing was measured.

    ``absent``: why a data set was not measured, by the part of the plan and its name there.
    """

    sweeps: Sequence[Swept] = ()
    transfer: Transfer | None = None
    transfer_names: Sequence[str] = ()
    segments: Mapping[str, Localised] = field(default_factory=dict)
    segment_names: Sequence[str] = ()
    absent: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A comparison, for example ``what`` = "`vgg_att2` against `vgg`".

    ``paper`` is its number there, empty where unknown; ``here`` ours with its interval; ``why`` the reason for a
    comparison that was not tested, or what has to be known to read the number. ``measured`` is what a figure draws;
    ``over_images`` the verdict that one seed would have if only other images were asked about.
    """

    what: str
    paper: str = ""
    here: str = ""
    verdict: str = UNTESTED
    why: str = ""
    measured: SeedComparison | None = None
    over_images: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its findings, what has to be said with them, and the commands the numbers come from.

    ``axis`` is what the findings' numbers are, for the figure; ``percent``: they are shares, shown in points.
    """

    number: int
    title: str
    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    axis: str = ""
    percent: bool = True

    def summary(self) -> str:
        """How many comparisons held, in words."""
        counts = {word: sum(SHORT[entry.verdict] == word for entry in self.findings) for word in SHORT.values()}
        said = [
            f"{word}: {count}{self._over_images() if word == SHORT[ONE_SEED] else ''}" for word, count in counts.items() if count
        ]
        return ", ".join(said) or UNTESTED

    def _over_images(self) -> str:
        """What the comparisons of one seed say of these networks, whatever other seeds would have given."""
        words = [SHORT[entry.over_images] for entry in self.findings if entry.verdict == ONE_SEED and entry.over_images]
        counts = {word: words.count(word) for word in (SHORT[HELD], SHORT[REVERSED], SHORT[OPEN])}
        said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        return f" (over images alone {said})" if said else ""


@dataclass(frozen=True)
class ComparisonTest:
    """A comparison to be judged. ``form`` prints it, in points or, if not ``percent``, as it is; ``less``: the paper's side is below 0."""

    what: str
    comparison: SeedComparison
    paper: str = ""
    form: str = "accuracy {}"
    percent: bool = True
    less: bool = False


def judge(tests: Sequence[ComparisonTest]) -> list[Finding]:
    """The comparisons of a claim. Those over several seeds are decided by the interval and by p after Holm, over all of them."""
    over_seeds = [test for test in tests if test.comparison.over_seeds]
    adjusted = dict(zip(map(id, over_seeds), statistics.holm([test.comparison.p for test in over_seeds]), strict=True))
    found = []
    for test in tests:
        p = adjusted.get(id(test))
        said = test.form.format((points if test.percent else index)(test.comparison.change))
        verdict = ONE_SEED if p is None else decided(test.comparison.change, float(p), less=test.less)
        why = "" if p is None else f"p {p:.2g} after Holm"
        alone = decided(test.comparison.change, less=test.less) if p is None else ""
        found.append(Finding(test.what, test.paper, said, verdict, why, test.comparison, alone))
    return found


def decided(change: Estimate, p: float = 0.0, *, less: bool = False) -> str:
    """Held where the whole interval is on the paper's side of 0, reversed where it is on the other, otherwise open."""
    if p > SIGNIFICANT or change.low <= 0 <= change.high:
        return OPEN
    return HELD if (change.high < 0) == less else REVERSED


def index(change: Estimate) -> str:
    """A difference of numbers from 0 to 1 with its interval."""
    return f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def signed(change: float) -> str:
    """A difference of shares in points."""
    return f"{100 * change:+.1f}"


def points(change: Estimate) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{signed(change.value)} points ({signed(change.low)} to {signed(change.high)})"
