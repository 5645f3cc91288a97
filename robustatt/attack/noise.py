"""Controls: random noise as large as the attacks, from somebody who knows nothing of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import ExampleRng, Oracle, SingleDirectionAttack, Batch
from robustatt.attack.norms import NORMS
from robustatt.attack.recipe import NoiseRecipe


class RandomNoise(SingleDirectionAttack):
    """One random direction an example, the same at every radius.

    `uniform` is a uniform point of the ball; `sign` one of the norm's extreme points: a random corner of the
    cube, a random point of the sphere, one pixel (linf, l2, l1).
    """

    def __init__(self, recipe: NoiseRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.extreme = recipe.kind == "sign"

    def direction(self, rows: Batch, oracle: Oracle, noise: ExampleRng) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        delta = self.norm.steepest_direction(noise.normal(rows)) if self.extreme else noise.in_ball(self.norm, rows)
        return delta, torch.zeros_like(rows.eps)
