"""Iterated steps along a running sum of gradients: MI-FGSM and NI-FGSM."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, ExampleRng, ModelOutput, State, SteppedAttack
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import LOSSES
from robustatt.attack.norms import NORMS, per_row, project
from robustatt.attack.recipe import MomentumRecipe


class MiFgsm(SteppedAttack):
    """Momentum iterative method (Dong et al. 2018, section 3.1, algorithm 1; L2 in section 3.3).

    g <- decay g + grad / |grad|_1 and x <- project(x + step_size eps steepest(g)), from the clean image.
    """

    def __init__(self, recipe: MomentumRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted, self.eot = LOSSES[recipe.loss], recipe.targeted, recipe.eot
        self.steps, self.step_size, self.decay = recipe.steps, recipe.step_size, recipe.decay

    def start(self, batch: Batch, rng: ExampleRng) -> State:  # noqa: ARG002
        return State(
            image=batch.image,
            momentum=torch.zeros_like(batch.image),
            eps=batch.eps,
            zero_gradient=torch.ones_like(batch.eps),
        )

    def query(self, state: State) -> Tensor:
        return state["image"]

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        # Scaled by the largest pixel first: the sum of gradients as small as 1e-40 would be 0.
        peak = output.grad.flatten(1).abs().amax(1)
        scaled = output.grad / per_row(peak.clamp_min(1e-38), output.grad)
        size = scaled.flatten(1).abs().sum(1).clamp_min(1e-12)
        momentum = self.decay * state["momentum"] + scaled / per_row(size, scaled)
        stride = per_row(self.step_size * batch.eps, batch.image)
        image = project(self.norm, batch.image, state["image"] + stride * self.norm.steepest_direction(momentum), batch.eps)
        return State(image=image, momentum=momentum, eps=batch.eps, zero_gradient=still_zero_gradient(state, output.grad))

    def candidate(self, state: State) -> Tensor:
        return state["image"]


class NiFgsm(MiFgsm):
    """Nesterov iterative method (Lin et al. 2020, section 3.1, equations 6 to 8).

    As MI-FGSM, but the gradient is taken ahead, at x + step_size eps decay g, which may lie outside the ball:
    so a query is no candidate.
    """

    queries_are_candidates = False

    def query(self, state: State) -> Tensor:
        stride = per_row(self.step_size * self.decay * state["eps"], state["image"])
        return state["image"] + stride * state["momentum"]
