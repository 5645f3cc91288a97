"""One model under one attack, as the checks of records see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustatt.attack.recipe import NO_ADVERSARIES, Category, ExternalRecipe, Recipe
from robustatt.eps import parse_radius
from robustatt.results.outcomes import Outcomes


@dataclass(frozen=True)
class AttackOutcome:
    """One model under one attack, clean-correct examples only: which are broken at which radius
    ``(examples, radii)``."""

    outcomes: Outcomes
    recipe: Recipe | None
    index: NDArray[np.int64]
    broken: NDArray[np.bool_]
    eps: tuple[float, ...]

    @staticmethod
    def of(outcomes: Outcomes, recipe: Recipe | None) -> AttackOutcome:
        """From the grid of records; the clean column is left out."""
        radii = [i for i, text in enumerate(outcomes.eps) if parse_radius(text) > 0]
        right = (outcomes.clean_pred == outcomes.label) & outcomes.present.all(1)
        return AttackOutcome(
            outcomes,
            recipe,
            outcomes.index[right],
            ~outcomes.correct[right][:, radii],
            tuple(float(parse_radius(outcomes.eps[i])) for i in radii),
        )

    @property
    def name(self) -> str:
        """The attack's."""
        return self.outcomes.attack

    @property
    def norm(self) -> str:
        """The norm of its threat model; L-infinity unless its recipe says otherwise."""
        return self.recipe.norm if self.recipe else "linf"

    @property
    def foreign(self) -> bool:
        """Whether it is a class of another library."""
        return isinstance(self.recipe, ExternalRecipe)

    @property
    def untargeted(self) -> Category | None:
        """What sort of attack it is; None if it is targeted or its recipe is not known: such ones are compared with none."""
        if self.recipe is None or getattr(self.recipe, "targeted", None) is not None:
            return None
        return self.recipe.category

    @property
    def iterative(self) -> bool:
        """Whether it takes many gradient steps towards any mistake."""
        return self.untargeted in ("iterative", "minimum-norm")

    @property
    def control(self) -> bool:
        """Whether it is a control, not an adversary."""
        return self.recipe is not None and self.recipe.category in NO_ADVERSARIES
