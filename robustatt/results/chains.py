"""What the parts of a chain such as AutoAttack did: how many examples each broke, radius by radius."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from robustatt.attack.recipe import Recipe
    from robustatt.results.outcomes import Outcomes
    from robustatt.results.summary import Summary


def parts_of(recipe: Recipe | None) -> dict[str, Recipe]:
    """The parts of a chain by the names that records give them, in order; empty for a single attack."""
    return {} if recipe is None else {part.name.rpartition("/")[2]: part for part in recipe.parts()}


def broken_by_part(outcomes: Outcomes, recipe: Recipe | None) -> list[dict[str, int]]:
    """For each radius how many examples each part broke; empty for a single attack, or if nothing was broken."""
    if outcomes.broken_by is None:
        return []
    named = list(parts_of(recipe))
    seen = sorted({str(name) for name in np.unique(outcomes.broken_by.astype(str))} - {"", *named})
    return [{name: int((column == name).sum()) for name in [*named, *seen]} for column in outcomes.broken_by.T]


@dataclass(frozen=True)
class PartTable:
    """How many examples each part of one chain broke on one model: a row of counts for each part, a column a radius."""

    model: str
    attack: str
    radii: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]


def part_tables(summary: Summary) -> list[PartTable]:
    """The table of every chain in a summary that broke anything."""
    tables = []
    for curve in summary.curves:
        points = [point for point in curve.points if point.broken_by and not point.eps.startswith("0/")]
        names = dict.fromkeys(name for point in points for name in point.broken_by)
        counts = {name: tuple(point.broken_by.get(name, 0) for point in points) for name in names}
        if counts:
            tables.append(PartTable(curve.model, curve.attack, tuple(p.eps for p in points), counts))
    return tables
