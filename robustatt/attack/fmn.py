"""The fast minimum-norm attack: gradient ascent in a ball whose radius follows the boundary."""

from __future__ import annotations

import math

import torch

from robustatt.attack.base import Batch, MinimumNormAttack, ModelOutput, State
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import logit_margin
from robustatt.attack.native_recipes import FmnRecipe
from robustatt.attack.norms import NORMS, per_row, project
from robustatt.attack.rng import ExampleRng

LAST_STEP_SHARE = 0.01  # of the first step size
LAST_GAMMA = 0.001


class Fmn(MinimumNormAttack):
    """FMN (Pintor et al. 2021, section 2, algorithm 1), from the clean image.

    While no mistake is known, the radius is the distance plus margin / |gradient|_dual, where a linear model
    would break, times 1 + gamma (on the boundary itself nothing is crossed); later it shrinks by a factor 1 -
    gamma at mistakes, never beyond the nearest known, and grows by 1 + gamma elsewhere. Steps go along the
    gradient's Euclidean direction; step size and gamma decay as a cosine.
    """

    def __init__(self, recipe: FmnRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss = logit_margin
        self.steps, self.step_size, self.gamma = recipe.steps, recipe.step_size, recipe.gamma

    def start(self, batch: Batch, rng: ExampleRng) -> State:  # noqa: ARG002
        return State(
            image=batch.image, nearest=batch.image, distance=torch.full_like(batch.eps, torch.inf),
            radius=torch.full_like(batch.eps, torch.inf), count=torch.zeros_like(batch.eps),
            zero_gradient=torch.ones_like(batch.eps),
        )  # fmt: skip

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        image = state["image"]
        now, mistake = self.seen(batch, state, image, output.logits, output.slack)
        decay = (1 + torch.cos(math.pi * state["count"] / self.steps)) / 2
        gamma = LAST_GAMMA + (self.gamma - LAST_GAMMA) * decay
        missing = -output.loss / self.norm.dual_norm(output.grad).clamp_min(1e-30)
        linear = self.norm.norm(image - batch.image) + missing
        grown = torch.where(now["distance"].isinf(), linear, state["radius"]) * (1 + gamma)
        now["radius"] = torch.where(mistake, torch.minimum(state["radius"] * (1 - gamma), now["distance"]), grown)
        stride = self.step_size * (LAST_STEP_SHARE + (1 - LAST_STEP_SHARE) * decay)
        ahead = image + per_row(stride, image) * NORMS["l2"].steepest_direction(output.grad)
        now["image"] = project(self.norm, batch.image, ahead, now["radius"])
        now["count"], now["zero_gradient"] = state["count"] + 1, still_zero_gradient(state, output.grad)
        return now
