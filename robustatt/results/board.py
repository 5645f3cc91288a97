"""Models of many runs side by side: what each held of the same examples against all its attacks, and its rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from robustatt.eps import HEADLINE_EPS, format_radius, parse_radius
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes
from robustatt.results.published import PublishedRow
from robustatt.results.ranking import ranking


@dataclass(frozen=True)
class Attacked:
    """One attack of one run on a model: its recipe's fingerprint, the run's folder, and the outcomes."""

    recipe: str
    folder: str
    outcomes: Outcomes

    @cached_property
    def radii(self) -> tuple[Fraction, ...]:
        """Those of the outcomes, ascending, the clean one first."""
        return tuple(map(parse_radius, self.outcomes.eps))

    @cached_property
    def breaks_at(self) -> NDArray[np.int64]:
        """The place of the smallest radius that breaks each example ``(n,)``; the number of radii where none does."""
        wrong = ~self.outcomes.correct
        never = wrong.shape[1]
        places: NDArray[np.int64] = np.where(wrong.any(1), wrong.argmax(1), never)
        return places


@dataclass(frozen=True)
class Entry:
    """A model in one norm: everything that was run against it, by whoever. `examples` is how many the data has."""

    name: str
    fingerprint: str
    norm: str
    examples: int
    attacks: tuple[Attacked, ...]
    warnings: tuple[str, ...] = ()
    """Codes of health warnings."""

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """The examples that every attack was run on."""
        first, *others = (attacked.outcomes.index for attacked in self.attacks)
        for index in others:
            first = np.intersect1d(first, index, assume_unique=True)
        return np.sort(first)

    @property
    def complete(self) -> bool:
        """Whether these are all of the data's."""
        return len(self.index) == self.examples

    @cached_property
    def radii(self) -> tuple[Fraction, ...]:
        """Every radius of some attack, without the clean one."""
        return tuple(sorted({radius for attacked in self.attacks for radius in attacked.radii} - {Fraction(0)}))

    def held(self, radius: Fraction) -> NDArray[np.bool_]:
        """Which of `index` no attack broke at any radius up to this one: norm balls are nested."""
        held = np.ones(len(self.index), dtype=bool)
        for attacked in self.attacks:
            here = np.searchsorted(attacked.outcomes.index, self.index)
            held &= attacked.breaks_at[here] >= sum(other <= radius for other in attacked.radii)
        return held

    def folders(self) -> tuple[str, ...]:
        """The runs it is in."""
        return tuple(dict.fromkeys(attacked.folder for attacked in self.attacks))

    def arsenal(self, radius: Fraction) -> dict[tuple[str, str], None]:
        """Names and recipes of the attacks that were run at this radius, in order."""
        return dict.fromkeys((attacked.outcomes.attack, attacked.recipe) for attacked in self.attacks if radius in attacked.radii)


@dataclass(frozen=True)
class Standing:
    """A row of the board. `rank` and `last` are None where examples are missing, so that it is not ranked."""

    entry: Entry
    rank: int | None
    last: int | None
    tied: bool
    accuracy: statistics.Estimate
    clean: statistics.Estimate
    n: int
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class NormBoard:
    """The models attacked in one norm at one radius, most accurate first, and published numbers at that radius.

    `unmeasured` have no attack at the radius. `unlike`: not all models were attacked by the same recipes.
    """

    norm: str
    radius: Fraction
    standings: tuple[Standing, ...]
    unmeasured: tuple[Entry, ...]
    published: tuple[PublishedRow, ...] = ()
    unlike: bool = False

    @property
    def eps(self) -> str:
        """The radius as records write it."""
        return format_radius(self.radius, self.norm)

    @property
    def ranked(self) -> list[Standing]:
        """Those that have a rank."""
        return [row for row in self.standings if row.rank is not None]


@dataclass(frozen=True)
class DataFacts:
    """What all runs of a board were on."""

    name: str
    split: str
    fingerprint: str
    n: int


@dataclass(frozen=True)
class Board:
    """Boards by norm, and what must be known beside them, a line each."""

    data: DataFacts
    norms: tuple[NormBoard, ...]
    notes: tuple[str, ...] = ()
    folders: tuple[str, ...] = field(default=())


def common_radius(entries: Sequence[Entry]) -> Fraction:
    """The radius that most models have; of equals the one nearest to what the literature reports, or in the middle."""
    counts = Counter(radius for entry in entries for radius in entry.radii)
    most = sorted(radius for radius, count in counts.items() if count == max(counts.values()))
    usual = HEADLINE_EPS.get(entries[0].norm)
    aim = most[len(most) // 2] if usual is None else parse_radius(usual)
    return min(most, key=lambda radius: abs(radius - aim))


def norm_board(norm: str, entries: Sequence[Entry], radius: Fraction, published: Iterable[PublishedRow] = ()) -> NormBoard:
    """Ranks the models that have all examples at the radius; see `robustatt.results.ranking.ranking`."""
    measured = [entry for entry in entries if radius in entry.radii]
    complete = [entry for entry in measured if entry.complete]
    places = {}
    if complete:
        found = ranking(np.stack([entry.held(radius) for entry in complete]))
        shared = Counter(found.rank.tolist())
        places = {
            id(entry): (int(rank), int(last), shared[int(rank)] > 1)
            for entry, rank, last in zip(complete, found.rank, found.last, strict=True)
        }
    rows = [_standing(entry, radius, *places.get(id(entry), (None, None, False))) for entry in measured]
    rows.sort(key=lambda row: (row.rank is None, -row.accuracy.value, row.entry.name))
    arsenals = {frozenset(entry.arsenal(radius)) for entry in measured}
    alike = [row for row in published if row.norm == norm and row.radius == radius]
    unmeasured = tuple(entry for entry in entries if entry not in measured)
    return NormBoard(
        norm, radius, tuple(rows), unmeasured, tuple(sorted(alike, key=lambda row: -row.accuracy)), len(arsenals) > 1
    )


def _standing(entry: Entry, radius: Fraction, rank: int | None, last: int | None, tied: bool) -> Standing:
    names = [name for name, _ in entry.arsenal(radius)]
    n = len(entry.index)
    return Standing(
        entry, rank, last, tied, _share(entry.held(radius)), _share(entry.held(Fraction(0))), n, tuple(dict.fromkeys(names))
    )


def _share(right: NDArray[np.bool_]) -> statistics.Estimate:
    """A share of the examples with its 95 % Wilson interval."""
    low, high = statistics.wilson(int(right.sum()), right.size)
    return statistics.Estimate(float(right.mean()), float(low), float(high))
