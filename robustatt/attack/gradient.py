"""Attacks that follow the gradient of the loss: FGSM and projected gradient ascent."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Answer, Noise, Oracle, RayAttack, Rows, State, SteppedAttack
from robustatt.attack.loss import LOSSES
from robustatt.attack.recipe import FgsmRecipe, PgdRecipe
from robustatt.threat import NORMS, per_row, project


class Fgsm(RayAttack):
    """Fast gradient (sign) method: one step of size eps from the clean image (Goodfellow et al. 2015, section 4).

    The gradient is taken at the clean image and does not depend on eps, so one gradient serves every radius.
    """

    def __init__(self, recipe: FgsmRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss = LOSSES[recipe.loss]

    def direction(self, rows: Rows, oracle: Oracle, noise: Noise) -> tuple[Tensor, Tensor]:
        grad = oracle.ask(rows.image, rows.label, self.loss, gradient=True).grad
        assert grad is not None
        return self.norm.steepest(grad), (grad.flatten(1).abs().amax(1) == 0).float()


class Pgd(SteppedAttack):
    """Projected gradient ascent with steps of a fixed share of eps (Madry et al. 2018, section 2.1).

    x <- project(x + step_size * eps * steepest(grad)), from a uniform random point of the ball if `random_start`.
    """

    def __init__(self, recipe: PgdRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss = LOSSES[recipe.loss]
        self.steps, self.restarts = recipe.steps, recipe.restarts
        self.step_size, self.random_start = recipe.step_size, recipe.random_start

    def start(self, rows: Rows, noise: Noise) -> State:
        image = rows.image
        if self.random_start:
            image = project(self.norm, image, image + noise.in_ball(self.norm, rows), rows.eps)
        return State(image=image, flat=torch.ones_like(rows.eps))

    def query(self, state: State) -> Tensor:
        return state["image"]

    def step(self, rows: Rows, state: State, answer: Answer) -> State:
        assert answer.grad is not None
        stride = per_row(self.step_size * rows.eps, rows.image)
        image = project(self.norm, rows.image, state["image"] + stride * self.norm.steepest(answer.grad), rows.eps)
        flat = state["flat"] * (answer.grad.flatten(1).abs().amax(1) == 0)
        return State(image=image, flat=flat)

    def candidate(self, state: State) -> Tensor:
        return state["image"]
