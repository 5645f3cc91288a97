"""From recipes to the algorithms that carry them out."""

from __future__ import annotations

import robustatt.attack.kinds as kinds
from robustatt.attack.apgd import Apgd, SparseApgd
from robustatt.attack.base import Attack, Chain, SteppedAttack
from robustatt.attack.fab import FabTargeted
from robustatt.attack.fmn import Fmn
from robustatt.attack.gradient import Fgsm, Pgd, RFgsm
from robustatt.attack.kinds import Recipe
from robustatt.attack.losses import FEWEST_CLASSES
from robustatt.attack.momentum import MiFgsm, NiFgsm
from robustatt.attack.noise import RandomNoise
from robustatt.attack.norms import NORMS
from robustatt.attack.square import Square
from robustatt.errors import InputError

MANY = 1000


def build(recipe: Recipe, classes: int | None) -> Attack:
    """See `robustatt.attack.build`."""
    classes = MANY if classes is None else classes
    _require_classes(recipe, classes)
    match recipe:
        case kinds.FgsmRecipe():
            return Fgsm(recipe)
        case kinds.RFgsmRecipe():
            return RFgsm(recipe)
        case kinds.PgdRecipe():
            return Pgd(recipe)
        case kinds.MomentumRecipe():
            return NiFgsm(recipe) if recipe.algorithm == "ni-fgsm" else MiFgsm(recipe)
        case kinds.ApgdRecipe() | kinds.ApgdTargetedRecipe():
            return (SparseApgd if recipe.norm == "l1" else Apgd)(recipe, classes)
        case kinds.FabRecipe():
            return FabTargeted(recipe, classes)
        case kinds.FmnRecipe():
            return Fmn(recipe)
        case kinds.SquareRecipe():
            return Square(recipe)
        case kinds.NoiseRecipe():
            return RandomNoise(recipe)
        case kinds.AutoAttackRecipe():
            return Chain(recipe.name, NORMS[recipe.norm], [_part(part, classes) for part in recipe.parts()])
        case kinds.ExternalRecipe():
            from robustatt.attack.external import adapt

            return adapt(recipe, classes)
    raise TypeError(f"no algorithm for {type(recipe).__name__}")


def _part(recipe: Recipe, classes: int) -> SteppedAttack:
    """A part of AutoAttack. Where DLR is not defined for so few classes, the margin takes its place."""
    fewest = _fewest(recipe)
    part = build(recipe.model_copy(update={"loss": "margin"}) if classes < fewest else recipe, classes)
    assert isinstance(part, SteppedAttack)
    return part


def _fewest(recipe: Recipe) -> int:
    """The fewest classes for which the recipe's loss is defined."""
    plain, aimed = FEWEST_CLASSES.get(getattr(recipe, "loss", ""), (2, 2))
    targeted = isinstance(recipe, kinds.ApgdTargetedRecipe) or getattr(recipe, "targeted", None) is not None
    return aimed if targeted else plain


def _require_classes(recipe: Recipe, classes: int) -> None:
    fewest = _fewest(recipe)
    if classes < fewest:
        raise InputError(
            f"attack {recipe.name!r}: the dlr loss needs {fewest} classes or more and the model has "
            f'{classes}: write loss = "margin"'
        )
