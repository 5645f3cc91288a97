"""From recipes to the algorithms that carry them out."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

from robustatt.attack.base import Attack, Chain, SteppedAttack
from robustatt.attack.losses import MIN_CLASSES
from robustatt.attack.native_recipes import ApgdTargetedRecipe
from robustatt.attack.norms import NORMS
from robustatt.attack.recipe import ExternalRecipe, Recipe
from robustatt.errors import InputError

MANY_CLASSES = 1000


def build(recipe: Recipe, classes: int | None = None) -> Attack:
    """The attack that a recipe describes, for a model with that many classes (None: not known).

    Raises:
        InputError: the recipe makes no sense for so few classes, or asks for a library that is not there.
    """
    classes = MANY_CLASSES if classes is None else classes
    _require_classes(recipe, classes)
    if parts := recipe.parts():
        return Chain(recipe.name, NORMS[recipe.norm], [_part(part, classes) for part in parts])
    if isinstance(recipe, ExternalRecipe):
        from robustatt.attack.external import adapt

        return adapt(recipe, classes)
    module, _, name = recipe.implementation.partition(":")
    make = getattr(import_module(module), name)
    attack: Attack = make(recipe, classes) if "classes" in signature(make).parameters else make(recipe)
    return attack


def _part(recipe: Recipe, classes: int) -> SteppedAttack:
    """A part of a chain. Where DLR is not defined for so few classes, the margin takes its place."""
    part = build(recipe.model_copy(update={"loss": "margin"}) if classes < _min_classes(recipe) else recipe, classes)
    assert isinstance(part, SteppedAttack)
    return part


def _min_classes(recipe: Recipe) -> int:
    """The fewest classes for which the recipe's loss is defined."""
    plain, aimed = MIN_CLASSES.get(getattr(recipe, "loss", ""), (2, 2))
    targeted = isinstance(recipe, ApgdTargetedRecipe) or getattr(recipe, "targeted", None) is not None
    return aimed if targeted else plain


def _require_classes(recipe: Recipe, classes: int) -> None:
    fewest = _min_classes(recipe)
    if classes < fewest:
        raise InputError(
            f"attack {recipe.name!r}: the dlr loss needs {fewest} classes or more and the model has "
            f'{classes}: write loss = "margin"'
        )
