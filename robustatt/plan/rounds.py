"""Which examples of a random order every model has met under every attack: the rounds of a sweep with `--time` or `--until`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

SMALLEST, LARGEST = 16, 256
"""Examples of a round: few at first, so that there is an answer early."""


@dataclass(frozen=True)
class Rounds:
    """Rounds of examples, in random order. A round is whole when every model has met its examples under every attack.

    `ends`: where each whole round ends; `of`: how many examples were asked for; `begun`: where the round in progress ends;
    `whole`: the fingerprint that these examples have in the order of the data, so without rounds.
    """

    of: int
    ends: tuple[int, ...] = ()
    begun: int | None = None
    whole: str = ""

    @property
    def done(self) -> int:
        """The examples of the whole rounds."""
        return self.ends[-1] if self.ends else 0

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The examples [start, stop) of each whole round."""
        yield from pairwise((0, *self.ends))

    def begin(self, end: int) -> Rounds:
        """With the next round in progress."""
        return replace(self, begun=end)

    def finish(self, end: int) -> Rounds:
        """With one more whole round."""
        return replace(self, ends=(*self.ends, end), begun=None)

    def known(self) -> tuple[int, ...]:
        """Where rounds end, that in progress too."""
        return self.ends if self.begun is None else (*self.ends, self.begun)

    def is_sound(self) -> bool:
        """Whether these can be rounds: ascending, none larger than a Cell, within what was asked for."""
        ends = (0, *self.known())
        steps = [stop - start for start, stop in pairwise(ends)]
        return self.of >= 1 and ends[-1] <= self.of and all(0 < step <= LARGEST for step in steps)


def sizes(done: int, of: int) -> Iterator[int]:
    """How large the next round may be, the best first: as many examples as are done, within bounds, or by halves fewer."""
    left = of - done
    size = min(max(SMALLEST, done), LARGEST, left)
    while size > SMALLEST:
        yield size
        size = max(SMALLEST, size // 2)
    if left:
        yield min(SMALLEST, left)
