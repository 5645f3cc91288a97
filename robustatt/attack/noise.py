"""Controls: random noise of the attacks' size that knows nothing of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, Oracle, SingleDirectionAttack
from robustatt.attack.native_recipes import NoiseRecipe
from robustatt.attack.norms import NORMS
from robustatt.attack.rng import ExampleRng


class RandomNoise(SingleDirectionAttack):
    """One random direction an example, the same at every radius.

    `uniform` is a uniform point of the ball; `sign` one of the norm's extreme points: a random corner of the
    cube, a random point of the sphere, one pixel (linf, l2, l1).
    """

    def __init__(self, recipe: NoiseRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.extreme = recipe.kind == "sign"

    def direction(self, batch: Batch, oracle: Oracle, rng: ExampleRng) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        delta = self.norm.steepest_direction(rng.normal(batch)) if self.extreme else rng.in_ball(self.norm, batch)
        return delta, torch.zeros_like(batch.eps)
