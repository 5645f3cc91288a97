"""Auto-PGD: gradient ascent with momentum that halves its own step size (Croce & Hein 2020)."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from robustatt.attack.base import Answer, Noise, Rows, State, SteppedAttack
from robustatt.attack.goal import kth_class
from robustatt.attack.gradient import still_flat
from robustatt.attack.kinds import ApgdRecipe, ApgdTargetedRecipe
from robustatt.attack.loss import LOSSES, Loss, goal_margin, targeted_logits_ratio
from robustatt.threat import NORMS, per_row, project


def checkpoints(steps: int) -> list[int]:
    """The iterations at which the step size may halve (section 3.2): w_j = ceil(p_j N).

    p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06).
    """
    before, now = Fraction(0), Fraction(22, 100)
    found: list[int] = []
    while now <= 1:
        found.append(math.ceil(now * steps))
        before, now = now, now + max(now - before - Fraction(3, 100), Fraction(6, 100))
    return sorted(set(found))


class Apgd(SteppedAttack):
    """Auto-PGD (Croce & Hein 2020, section 3, algorithm 1), for L-infinity and L2.

    Starts on the ball's surface with steps of 2 eps. At each checkpoint the step is halved, and the search
    goes on from the best point, if (1) the loss rose in fewer than `rho` of the steps since the last
    checkpoint, or (2) the step was not halved there and the best loss has not changed since. Each row keeps
    its own count of steps.
    """

    MOMENTUM = 0.75

    def __init__(self, recipe: ApgdRecipe | ApgdTargetedRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss: Loss = LOSSES[recipe.loss]
        self.steps, self.eot, self.rho = recipe.steps, recipe.eot, recipe.rho
        if isinstance(recipe, ApgdRecipe):
            self.restarts, self.targeted = recipe.restarts, recipe.targeted
        marks = checkpoints(self.steps)
        window = torch.zeros(self.steps + 1)  # by iteration: the length of the window it closes, or 0
        for before, mark in zip([0, *marks], marks, strict=False):
            window[mark] = mark - before
        self._window = window

    def start(self, rows: Rows, noise: Noise) -> State:
        if self.norm.name == "linf":
            delta = noise.uniform(rows)
            delta = delta / per_row(self.norm.length(delta), delta)
        else:
            delta = self.norm.steepest(noise.normal(rows))
        image = project(self.norm, rows.image, rows.image + delta * per_row(rows.eps, delta), rows.eps)
        zero = torch.zeros_like(rows.eps)
        return State(
            image=image, previous=image, best=image, best_grad=torch.zeros_like(image),
            best_loss=zero - torch.inf, last_loss=zero + torch.inf, checked_loss=zero - torch.inf,
            rises=zero, halved=zero + 1, stride=2 * rows.eps, count=torch.zeros_like(rows.label),
            flat=torch.ones_like(rows.eps),
        )  # fmt: skip

    def query(self, state: State) -> Tensor:
        return state["image"]

    def candidate(self, state: State) -> Tensor:
        return state["image"]

    def step(self, rows: Rows, state: State, answer: Answer) -> State:
        """Take in the loss and gradient at iterate number `count`, then move to the next."""
        assert answer.grad is not None
        now = self._remember(state, answer)
        image, grad = self._check(now, answer.grad)
        now["previous"], now["image"] = image, self._move(rows, now, image, grad)
        now["count"] = state["count"] + 1
        now["flat"] = still_flat(state, answer.grad)
        return now

    def _remember(self, state: State, answer: Answer) -> State:
        """Counts of rises, and the best point so far."""
        assert answer.grad is not None
        now = State(state)
        now["rises"] = state["rises"] + (answer.loss > state["last_loss"])
        now["last_loss"] = answer.loss
        better = answer.loss > state["best_loss"]
        now["best_loss"] = torch.where(better, answer.loss, state["best_loss"])
        now["best"] = torch.where(per_row(better, answer.grad), state["image"], state["best"])
        now["best_grad"] = torch.where(per_row(better, answer.grad), answer.grad, state["best_grad"])
        first = state["count"] == 0
        now["checked_loss"] = torch.where(first, answer.loss, state["checked_loss"])
        return now

    def _check(self, now: State, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Where to go on from and the gradient there; at checkpoints `now` may get half the step."""
        window = self._window.to(grad.device)[now["count"]]
        due = window > 0
        seldom = now["rises"] < self.rho * window
        stuck = (now["halved"] == 0) & (now["checked_loss"] >= now["best_loss"])
        halve = due & (seldom | stuck)
        now["stride"] = torch.where(halve, now["stride"] / 2, now["stride"])
        now["halved"] = torch.where(due, halve.to(grad.dtype), now["halved"])
        now["checked_loss"] = torch.where(due, now["best_loss"], now["checked_loss"])
        now["rises"] = torch.where(due, torch.zeros_like(window), now["rises"])
        back = per_row(halve, grad)
        return torch.where(back, now["best"], now["image"]), torch.where(back, now["best_grad"], grad)

    def _move(self, rows: Rows, now: State, image: Tensor, grad: Tensor) -> Tensor:
        """z = project(x + stride * steepest), then x + 0.75 (z - x) + 0.25 (x - x_before); at first z."""
        stride = per_row(now["stride"], grad)
        ahead = project(self.norm, rows.image, image + stride * self.norm.steepest(grad), rows.eps)
        inertia = image - now["previous"]
        blended = image + self.MOMENTUM * (ahead - image) + (1 - self.MOMENTUM) * inertia
        blended = project(self.norm, rows.image, blended, rows.eps)
        return torch.where(per_row(now["count"] == 0, grad), ahead, blended)


class ApgdTargeted(Apgd):
    """APGD-T: Auto-PGD on the targeted DLR loss, a run for each of the likeliest wrong classes (section 5.1).

    The restart number says which: the classes are ranked by the clean image's logits. Any mistake is a
    success.
    """

    def __init__(self, recipe: ApgdTargetedRecipe, classes: int) -> None:
        super().__init__(recipe)
        self.restarts = min(recipe.targets, classes - 1)
        self.ratio = recipe.loss == "dlr"

    def start(self, rows: Rows, noise: Noise) -> State:
        state = super().start(rows, noise)
        state["goal"] = kth_class(rows.clean, rows.label, rows.restart)
        return state

    def objective(self, rows: Rows, state: State) -> Loss:  # noqa: ARG002
        loss = targeted_logits_ratio if self.ratio else goal_margin
        return lambda logits, label: loss(logits, label, state["goal"])
