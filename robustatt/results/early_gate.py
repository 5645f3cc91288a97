"""The gate before all examples are done: when is the verdict on a reference's examples known, of a run that took them in random order?

The order is the only chance that is needed: the examples done are drawn from those of the reference without replacement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustatt.results import statistics
from robustatt.results.plan_info import PlanInfo

SPENT_EARLY = 0.5
"""Share of alpha that false alarms before the last look may have, all looks together. The last look is the ordinary gate."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """One look at a run: how many examples are done, of how many, and how many were at the look before."""

    done: int
    of: int
    before: int = 0

    @staticmethod
    def at(plan: PlanInfo) -> Look | None:
        """The last look at a sweep in rounds that has not met all examples; None for any other."""
        rounds = plan.rounds
        if rounds is None or not rounds.ends or rounds.done >= rounds.of:
            return None
        return Look(rounds.done, rounds.of, rounds.ends[-2] if len(rounds.ends) > 1 else 0)

    def spends(self, alpha: float) -> float:
        """What this look may spend of a chance of error: by the examples it adds, so that all looks together spend no more than it."""
        return alpha * (self.done - self.before) / self.of

    def alarm_level(self, alpha: float) -> float:
        """The level at which a loss is an alarm before the end."""
        return SPENT_EARLY * self.spends(alpha)

    def passes(self, lost: Counts, gained: Counts, max_drop: float, alpha: float) -> NDArray[np.bool_]:
        """At which points so few examples were lost ``(points,)`` that the whole run will hardly raise an alarm there.

        The whole run can only alarm with at least `least_lost` examples lost, given those already gained. Had it so many, as few
        among the examples done as there are would have a probability (hypergeometric) of at most what this look may spend.
        """
        found = np.zeros(lost.size, dtype=bool)
        for place, (down, up) in enumerate(zip(lost.tolist(), gained.tolist(), strict=True)):
            fewest = least_lost(up, self.of, max_drop, alpha)
            unlikely = fewest > self.of or fewer_drawn(down, fewest, self.done, self.of) <= self.spends(alpha)
            found[place] = unlikely
        return found


@lru_cache(maxsize=4096)
def least_lost(gained: int, n: int, max_drop: float, alpha: float) -> int:
    """How many of ``n`` examples a point must lose, if it gains so many, to be a regression under the most lenient correction."""
    lost = gained + math.floor(max_drop * n / 100) + 1
    while lost <= n and float(statistics.mcnemar_one_sided(lost, gained)) > alpha:
        lost += 1
    return lost


@lru_cache(maxsize=65536)
def fewer_drawn(most: int, marked: int, drawn: int, of: int) -> float:
    """The probability that at most ``most`` of ``marked`` things are among ``drawn`` of ``of``, without replacement."""
    if most >= min(marked, drawn):
        return 1.0
    smallest = max(0, drawn - (of - marked))
    ways = sum(math.comb(marked, count) * math.comb(of - marked, drawn - count) for count in range(smallest, most + 1))
    return ways / math.comb(of, drawn)
