"""The attacks: recipes (data) and the algorithms that carry them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustatt.attack.recipe import Recipe

if TYPE_CHECKING:
    from robustatt.attack.base import Attack


def build(recipe: Recipe, classes: int | None = None) -> Attack:
    """The attack a recipe describes, for a model with that many classes (None: not known).

    Raises InputError where the recipe makes no sense for so few classes, or asks for a library that is not
    there.
    """
    from robustatt.attack.builder import build as construct

    return construct(recipe, classes)
