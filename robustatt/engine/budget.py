"""How large the next round of a sweep may be: what is left of the time, and what the last round took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from robustatt.plan import Plan
from robustatt.plan.rounds import SMALLEST, sizes


@dataclass
class Budget:
    """The time that a sweep may take, without an end if `seconds` is None; `began` by the clock, now if None.

    `pace` is what an example is expected to take, in seconds, under all attacks on all models; None while nothing is measured. `reserve` is kept for what is done after the last round.
    """

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    pace: float | None = None
    reserve: float = 0.0
    began: float | None = None

    def __post_init__(self) -> None:
        self._began = self.clock() if self.began is None else self.began

    @staticmethod
    def of(plan: Plan, began: float | None = None) -> Budget:
        """The time that a plan may take."""
        return Budget(None if plan.limits is None else plan.limits.seconds, began=began)

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    def took(self, examples: float, seconds: float) -> None:
        """Take in a round. Its examples may have been easy ones by chance, the more so the fewer they were."""
        if examples:
            self.pace = seconds / examples * (1 + examples**-0.5)

    def fits(self, examples: float) -> bool:
        """Whether a round of so many examples, by the last one, ends in time."""
        if self.seconds is None:
            return True
        left = self.seconds - self.spent - self.reserve
        return left > 0 and (examples * self.pace <= left if self.pace is not None else examples <= SMALLEST)

    def next_end(self, done: int, of: int, known: Iterable[int], to_compute: Callable[[int], float]) -> int | None:
        """Where the next round ends; None if none fits.

        A round that an earlier run took or began is taken again if what it lacks fits, so that its Cells are used. Without any
        example there is no answer: the first round is always run.

        Args:
            known: where rounds of earlier runs end.
            to_compute: how many examples, under all attacks on all models, have to be computed up to an end.
        """
        earlier = [end for end in known if done < end <= of][:1]
        for end in [*earlier, *(done + size for size in sizes(done, of))]:
            if self.fits(to_compute(end)) or not to_compute(end):
                return end
        return None if done else min(SMALLEST, of)
