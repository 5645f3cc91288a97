"""Images attacked with the whole radius, to see where a model looks in them.

A sweep leaves an image as soon as the prediction has changed. Here the attack goes on to its last step, success or
not, so that an image at eps shows what eps can do. There need be no labels: the attack starts from the class
that the model itself predicts for the clean image, and is untargeted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.attack.base import Attack, Batch, MinimumNormAttack, Oracle, SingleDirectionAttack, SteppedAttack
from robustatt.attack.border import border_margin
from robustatt.attack.builder import build
from robustatt.attack.norms import measure, per_row
from robustatt.attack.recipe import Recipe
from robustatt.attack.rng import ExampleRng
from robustatt.errors import InputError
from robustatt.evaluate.step_runner import run_to_end

Forward = Callable[[Tensor], Tensor]


def build_attack(recipe: Recipe, classes: int | None = None) -> Attack:
    """The attack of a recipe, for a model with that many classes (None: not known yet).

    Raises:
        InputError: it has no fixed radius, belongs to another library, is a chain of several, or is targeted.
    """
    attack = build(recipe, classes)
    stepped = isinstance(attack, SteppedAttack) and not isinstance(attack, MinimumNormAttack)
    if not (stepped or isinstance(attack, SingleDirectionAttack)):
        raise InputError(
            f"attack {recipe.name!r}: segment needs one attack at a given radius: give fgsm, pgd, mi-fgsm or apgd-ce"
        )
    if attack.targeted is not None:
        raise InputError(f"attack {recipe.name!r} is targeted: segment attacks the predicted class: give fgsm or pgd")
    return attack


def perturb(
    attack: Attack, forward: Forward, images: Float[Tensor, "n c h w"], index: Int[Tensor, " n"], eps: float, seed: int
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """Images within eps (in [0, 1] pixel scale) of the clean ones, and what the model predicts for the clean ones.

    Randomness belongs to the example, as in a sweep. Only the first restart is run.

    Raises:
        ThreatModelViolation: the attack left the ball or the box.
    """
    with torch.no_grad():
        logits = forward(images)
    batch = Batch.at(eps, images, logits.argmax(1), logits, index)
    oracle, rng = Oracle(forward, border_margin(forward, images)), ExampleRng(seed, attack.name)
    if isinstance(attack, SingleDirectionAttack):
        direction, _ = attack.direction(replace(batch, eps=torch.ones_like(batch.eps)), oracle, rng)
        attacked = (images + per_row(batch.eps, images) * direction).clamp(0.0, 1.0)
    else:
        assert isinstance(attack, SteppedAttack)
        attacked = run_to_end(attack, batch, oracle, attack.start(batch, rng))
    measure(attack.norm, images, attacked, batch.eps, attack.name, index)
    return attacked.clamp(0.0, 1.0), batch.label
