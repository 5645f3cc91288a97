"""The images, and on request the attention maps, behind some rows of a Cell."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

Values = dict[str, NDArray[np.float32]]


class KeptRows:
    """Of the first `examples` examples the rows at some `radii` (places in the grid), and of each the one at its threshold.

    The threshold is the smallest radius at which an example is predicted wrong that is right when clean. Which one it is
    shows only at the end, so each example's smallest so far is held, and the largest below each of `radii`, which the row there
    may yet be a copy of.
    """

    def __init__(self, examples: int, radii: Collection[int] = (), maps: bool = False) -> None:
        self.examples, self.radii, self.maps = examples, sorted(radii), maps
        self._rows: dict[int, dict[int, Values]] = {example: {} for example in range(examples)}
        self._wrong: dict[int, set[int]] = {example: set() for example in range(examples)}

    def write(self, example: int, radius: int, values: Values, wrong: bool, targeted: bool) -> None:
        """What is behind a row; `wrong` says whether it is predicted wrong, having been right when clean.

        Of a `targeted` example every wrong row is held: one that misses its class is no row to copy.
        """
        if example >= self.examples or not (wrong or radius in self.radii):
            return
        rows, wrongs = self._rows[example], self._wrong[example]
        rows[radius] = {name: np.array(value, np.float32) for name, value in values.items()}
        (wrongs.add if wrong else wrongs.discard)(radius)
        if targeted:
            return
        needed = {*self.radii, min(wrongs, default=radius)}
        needed |= {max((r for r in wrongs if r <= named), default=named) for named in self.radii}
        for spare in rows.keys() - needed:
            del rows[spare]
        wrongs &= rows.keys()

    def copy(self, example: int, source: int, radius: int) -> None:
        """The row of one radius is that of a smaller one."""
        if example < self.examples and radius in self.radii:
            self._rows[example][radius] = self._rows[example][source]

    def __getitem__(self, row: tuple[int, int]) -> Values:
        example, radius = row
        return self._rows[example][radius]

    def rows(self, wrong: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Every kept row as (radius, example): the named radii, and the first at which each example is `wrong` ``(n, radii)``."""
        first = {example: int(row.argmax()) for example, row in enumerate(wrong[: self.examples]) if row.any()}
        for radius in range(wrong.shape[1]):
            yield from ((radius, e) for e in range(self.examples) if radius in self.radii or first.get(e) == radius)
