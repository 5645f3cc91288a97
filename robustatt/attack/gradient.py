"""Attacks that follow the gradient of the loss: FGSM, its random start, and projected gradient ascent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, ModelOutput, Oracle, SingleDirectionAttack, State, SteppedAttack
from robustatt.attack.gradient_recipes import FgsmRecipe, MomentumRecipe, PgdRecipe, RFgsmRecipe
from robustatt.attack.losses import LOSSES, towards
from robustatt.attack.norms import NORMS, per_row, project
from robustatt.attack.rng import ExampleRng


def still_zero_gradient(state: State, grad: Tensor) -> Tensor:
    """1.0 where every gradient of the run so far was zero everywhere."""
    return state["zero_gradient"] * (grad.flatten(1).abs().amax(1) == 0)


class Fgsm(SingleDirectionAttack):
    """Fast gradient (sign) method: one step of size eps from the clean image (Goodfellow et al. 2015, section
    4).

    The gradient is taken at the clean image and does not depend on eps, so one gradient serves every radius.
    """

    def __init__(self, recipe: FgsmRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted, self.eot = LOSSES[recipe.loss], recipe.targeted, recipe.eot

    def direction(self, batch: Batch, oracle: Oracle, rng: ExampleRng) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        loss = self.loss if self.targeted is None else towards(self.loss, batch.target_class)
        grad = oracle.query(batch.image, batch.label, loss, gradient=True, passes=self.eot).grad
        assert grad is not None
        return self.norm.steepest_direction(grad), (grad.flatten(1).abs().amax(1) == 0).float()


class FixedSteps(SteppedAttack):
    """x <- project(x + step_size * eps * steepest(grad)); where it starts is up to the subclass."""

    step_size: float

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        stride = per_row(self.step_size * batch.eps, batch.image)
        image = project(self.norm, batch.image, state["image"] + stride * self.norm.steepest_direction(output.grad), batch.eps)
        return State(image=image, zero_gradient=still_zero_gradient(state, output.grad))

    def candidate(self, state: State) -> Tensor:
        return state["image"]


class Pgd(FixedSteps):
    """Projected gradient ascent with steps of a fixed share of eps (Madry et al. 2018, section 2.1).

    Starts at a uniform random point of the ball if `random_start`, else at the clean image.
    """

    def __init__(self, recipe: PgdRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted, self.eot = LOSSES[recipe.loss], recipe.targeted, recipe.eot
        self.steps, self.restarts = recipe.steps, recipe.restarts
        self.step_size, self.random_start = recipe.step_size, recipe.random_start

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        image = batch.image
        if self.random_start:
            image = project(self.norm, image, image + rng.in_ball(self.norm, batch), batch.eps)
        return State(image=image, zero_gradient=torch.ones_like(batch.eps))


class RFgsm(FixedSteps):
    """One gradient step from a random point near the image.

    With `start` sign, R+FGSM (Tramèr et al. 2018, section 4.1): x' = x + a eps sign(noise), then (1 - a) eps
    along the gradient's sign. With `start` uniform, Wong et al. 2020, section 4: a uniform point of the ball,
    then a step of 1.25 eps, projected back.
    """

    steps = 1

    def __init__(self, recipe: RFgsmRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted, self.eot = LOSSES[recipe.loss], recipe.targeted, recipe.eot
        self.uniform, self.start_size, self.step_size = (
            recipe.start == "uniform",
            recipe.start_size,
            recipe.step_size,
        )

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        if self.uniform:
            delta = rng.in_ball(self.norm, batch)
        else:
            delta = self.norm.steepest_direction(rng.normal(batch)) * per_row(batch.eps, batch.image)
        image = project(self.norm, batch.image, batch.image + self.start_size * delta, batch.eps)
        return State(image=image, zero_gradient=torch.ones_like(batch.eps))


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
    so a query is not a candidate.
    """

    queries_are_candidates = False

    def query(self, state: State) -> Tensor:
        stride = per_row(self.step_size * self.decay * state["eps"], state["image"])
        return state["image"] + stride * state["momentum"]
