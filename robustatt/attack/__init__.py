"""The attacks: recipes (data) and the algorithms that carry them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustatt.attack.recipe import FgsmRecipe, PgdRecipe, Recipe

if TYPE_CHECKING:
    from robustatt.attack.base import Attack


def build(recipe: Recipe) -> Attack:
    """The attack a recipe describes."""
    from robustatt.attack.gradient import Fgsm, Pgd

    match recipe:
        case FgsmRecipe():
            return Fgsm(recipe)
        case PgdRecipe():
            return Pgd(recipe)
    raise TypeError(f"no algorithm for {type(recipe).__name__}")
