"""What Cells are expected to cost, so that the longest can be begun first. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping

from robustatt.attack.recipe import Recipe
from robustatt.plan import Cell, Plan

GRADIENT = 3.0  # a gradient in forward passes, where nothing is measured
RUNS = 1.5  # runs of an attack an example needs over a whole grid (the threshold search)


def full_strength(recipe: Recipe, radii: int, independent: bool) -> tuple[float, float]:
    """Gradients and forward passes of one example, as the recipe promises them before anything is measured."""
    gradients, forwards = recipe.cost()
    if recipe.one_run:
        return gradients, forwards * radii + 1
    runs = radii if independent else min(RUNS, radii)
    return gradients * runs, forwards * runs + radii + 1


class Costs:
    """Expected seconds of a Cell; what has been measured of its kind counts, what was promised only until then.

    A kind is (model, attack). One that was not measured yet is promised the seconds of its forward passes, corrected
    by what the measured kinds of the same model, or else of all, turned out to cost against their promise.

    Args:
        plan: whose Cells these are.
        forward_seconds: of one image through each model; 1.0 where it is not known.
    """

    def __init__(self, plan: Plan, forward_seconds: Mapping[str, float] | None = None) -> None:
        self._promised: dict[tuple[str, str], float] = {}
        for entry in plan.models:
            forward = (forward_seconds or {}).get(entry.name, 1.0)
            for recipe in plan.attacks:
                gradients, forwards = full_strength(recipe, len(plan.radii_of(recipe)), plan.independent)
                self._promised[entry.name, recipe.name] = forward * (GRADIENT * gradients + forwards)
        self._seconds: dict[tuple[str, str], float] = {}
        self._examples: dict[tuple[str, str], int] = {}

    @staticmethod
    def measured(plan: Plan, per_example: Mapping[tuple[str, str], float]) -> Costs:
        """Costs that know the seconds of one example of some kinds already."""
        costs = Costs(plan)
        costs._seconds.update(per_example)
        costs._examples.update(dict.fromkeys(per_example, 1))
        return costs

    def expected(self, cell: Cell) -> float:
        """Seconds of a Cell on one worker."""
        return self.per_example(cell.model, cell.attack.name) * (cell.stop - cell.start)

    def per_example(self, model: str, attack: str) -> float:
        """Seconds of one example on one worker."""
        kind = (model, attack)
        if kind in self._seconds:
            return self._seconds[kind] / self._examples[kind]
        return self._promised[kind] * self._correction(model)

    def _correction(self, model: str) -> float:
        related = [kind for kind in self._seconds if kind[0] == model] or list(self._seconds)
        promised = sum(self._promised[kind] * self._examples[kind] for kind in related)
        return sum(self._seconds[kind] for kind in related) / promised if promised else 1.0

    def learn(self, cell: Cell, seconds: float) -> bool:
        """Take in what a Cell cost; whether it is the first of its kind, so that the order may change."""
        kind = (cell.model, cell.attack.name)
        first = kind not in self._seconds
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._examples[kind] = self._examples.get(kind, 0) + cell.stop - cell.start
        return first
