"""Which colour, marker and dash stands for what: safe for the colour-blind, readable in grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LIGHT = ("#0072b2", "#c84e00", "#00795a", "#a23b7e", "#8a6a00", "#4b4fb0", "#7a3b12", "#4d5963")
DARK = ("#5ab4ef", "#ff9350", "#35c99e", "#e58cc8", "#e3bd45", "#a5a9ff", "#d79a72", "#a9b5c0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""In matplotlib's letters: circle, square, triangle, diamond, triangle down, plus, cross, pentagon."""

DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 2), (8, 2.5, 1.5, 2.5), (3, 1.5), (10, 3))

TURN = 3
"""By how many places markers move against colours each time the colours begin again: 64 models look different."""


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn: colour and marker by number, dash pattern in points."""

    colour: int
    dash: tuple[float, ...] = ()

    @property
    def light(self) -> str:
        """The colour on white."""
        return LIGHT[self.colour % len(LIGHT)]

    @property
    def marker(self) -> str:
        """The marker, in matplotlib's letters."""
        round_, place = divmod(self.colour, len(LIGHT))
        return MARKERS[(place + TURN * round_) % len(MARKERS)]


SHADES = 4
"""How many shades of a table's cells there are beside none."""


def shades(values: ArrayLike, top: float) -> NDArray[np.int64]:
    """The shade of each cell, 0 to `SHADES`: its value's share of the largest, rounded up."""
    return np.ceil(SHADES * np.nan_to_num(values) / (top or 1.0)).astype(np.int64)


def dash(number: int) -> tuple[float, ...]:
    """The dash pattern of an attack by its place: after those listed, a long dash and ever more dots."""
    extra = number - len(DASHES) + 1
    return DASHES[number] if extra <= 0 else (10, 2.5) + (1.5, 2.5) * (extra + 1)


def looks(models: Sequence[str], attacks: Sequence[str]) -> dict[tuple[str, str], SeriesStyle]:
    """Colour and marker by model, line style by attack."""
    return {(model, attack): SeriesStyle(m, dash(a)) for m, model in enumerate(models) for a, attack in enumerate(attacks)}


GROUP_LOOKS = {
    "fooled": SeriesStyle(1),
    "held": SeriesStyle(0, (6, 2.5)),
    "uniform noise up to ε": SeriesStyle(7, (1.5, 2)),
    "random signs times ε": SeriesStyle(3, (3, 1.5)),
}
"""How the groups of a drift figure are drawn."""
