"""One model under one attack, as the checks of records see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustatt.attack.kinds import ExternalRecipe
from robustatt.attack.recipe import Recipe
from robustatt.eps import parse_radius
from robustatt.results.summary import Grid

ITERATIVE = ("pgd", "mi-fgsm", "ni-fgsm", "apgd", "apgd-t", "fab-t", "fmn", "autoattack")


@dataclass(frozen=True)
class Outcome:
    """One model under one attack, clean-correct examples only: which are broken at which radius
    ``(examples, radii)``."""

    grid: Grid
    recipe: Recipe | None
    index: NDArray[np.int64]
    broken: NDArray[np.bool_]
    eps: tuple[float, ...]

    @staticmethod
    def of(grid: Grid, recipe: Recipe | None) -> Outcome:
        """From the grid of records; the clean column is left out."""
        radii = [i for i, text in enumerate(grid.eps) if parse_radius(text) > 0]
        right = (grid.clean_pred == grid.label) & grid.present.all(1)
        return Outcome(
            grid,
            recipe,
            grid.index[right],
            ~grid.correct[right][:, radii],
            tuple(float(parse_radius(grid.eps[i])) for i in radii),
        )

    @property
    def name(self) -> str:
        """The attack's."""
        return self.grid.attack

    @property
    def norm(self) -> str:
        """The norm of its threat model; L-infinity unless its recipe says otherwise."""
        return self.recipe.norm if self.recipe else "linf"

    @property
    def foreign(self) -> bool:
        """Whether it is a class of another library."""
        return isinstance(self.recipe, ExternalRecipe)

    @property
    def kind(self) -> str:
        """What sort of attack it is, see `kind_of`."""
        return kind_of(self.recipe)


def kind_of(recipe: Recipe | None) -> str:
    """single, iterative, black-box, control or unknown (targeted attacks and those of other libraries)."""
    if recipe is None or getattr(recipe, "targeted", None) is not None:
        return "unknown"
    if recipe.algorithm in ITERATIVE:
        return "single" if getattr(recipe, "steps", 2) == 1 else "iterative"
    return {"fgsm": "single", "r-fgsm": "single", "square": "black-box", "noise": "control"}.get(
        recipe.algorithm, "unknown"
    )
