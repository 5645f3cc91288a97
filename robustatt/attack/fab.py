"""The fast adaptive boundary attack: the nearest mistake, by projections onto the linearised boundary."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.attack.base import Batch, MinimumNormAttack, ModelOutput, State
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import Loss, target_margin
from robustatt.attack.native_recipes import FabRecipe
from robustatt.attack.norms import NORMS, Norm, per_row
from robustatt.attack.rng import ExampleRng
from robustatt.attack.target_classes import kth_class


class FabTargeted(MinimumNormAttack):
    """FAB towards one class a run (Croce & Hein 2020b, "Minimally distorted adversarial examples", algorithm
    1).

    Each step linearises the margin between the label and the target class at x, projects x and the clean image
    onto that hyperplane within the box, overshoots by `eta`, and blends the two with weight at most
    `alpha_max` on the clean one. A mistake is remembered, and the next step starts `beta` of the way from the
    clean image to it. The restart number ranks the target class by the clean image's logits, as in AutoAttack's
    targeted version.
    """

    looks_after_step = True

    def __init__(self, recipe: FabRecipe, classes: int) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss: Loss = lambda logits, label: torch.zeros_like(  # noqa: ARG005
            label
        )  # `objective` says what is differentiated
        self.steps, self.restarts = recipe.steps, min(recipe.targets, classes - 1)
        self.alpha_max, self.eta, self.beta = recipe.alpha_max, recipe.eta, recipe.beta

    def objective(self, batch: Batch, state: State) -> Loss:  # noqa: ARG002
        return lambda logits, label: target_margin(logits, label, state["target_class"])

    def start(self, batch: Batch, rng: ExampleRng) -> State:  # noqa: ARG002
        return State(
            image=batch.image, nearest=batch.image, distance=torch.full_like(batch.eps, torch.inf),
            target_class=kth_class(batch.clean, batch.label, batch.restart), zero_gradient=torch.ones_like(batch.eps),
        )  # fmt: skip

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        now, _ = self.seen(batch, state, state["image"], output.logits, output.slack)
        now["image"] = self._towards_boundary(batch.image, state["image"], output.loss, output.grad)
        now["zero_gradient"] = still_zero_gradient(state, output.grad)
        return now

    def looked(self, batch: Batch, state: State, logits: Tensor) -> State:
        image = state["image"]
        now, mistake = self.seen(batch, state, image, logits)
        now["image"] = torch.where(per_row(mistake, image), batch.image + self.beta * (image - batch.image), image)
        return now

    def _towards_boundary(self, clean: Tensor, image: Tensor, margin: Tensor, grad: Tensor) -> Tensor:
        """One iteration, from the target class's margin and its gradient at the image (equations 7 to 9)."""
        rise = -margin
        from_clean = rise + (grad * (image - clean)).flatten(1).sum(1)
        both = nearest(self.norm, torch.cat([image, clean]), torch.cat([grad, grad]), torch.cat([rise, from_clean]))
        here, there = both.chunk(2)
        near, far = self.norm.norm(here).clamp_min(1e-8), self.norm.norm(there).clamp_min(1e-8)
        weight = per_row((near / (near + far)).clamp(max=self.alpha_max), image)
        return ((image + self.eta * here) * (1 - weight) + (clean + self.eta * there) * weight).clamp(0.0, 1.0)


MAX_NEWTON_STEPS = 60
ASKED_ON_GPU = 8
"""How often it is asked there whether any row goes on: the answer has to be waited for, and a step too many changes nothing."""


def nearest(
    norm: Norm, point: Float[Tensor, "n *image"], normal: Float[Tensor, "n *image"], rise: Float[Tensor, " n"]
) -> Float[Tensor, "n *image"]:
    """The change d of least norm with normal . d = rise and point + d in [0, 1].

    Where the box is too small for that, the change that comes closest. Zero where the normal is zero.
    """
    flat, slope = point.flatten(1), normal.flatten(1) * torch.where(rise < 0, -1.0, 1.0)[:, None]
    wanted = rise.abs()
    gain = slope.abs()
    room = torch.where(slope > 0, 1 - flat, flat).clamp_min(0)  # how far each pixel can move the wanted way
    if norm.name == "l1":
        size = _greedy(gain, room, wanted)
    else:
        pace = (gain > 0).to(gain.dtype) if norm.name == "linf" else gain
        size = torch.minimum(_time(gain, pace, room, wanted)[:, None] * pace, room)
    return (size * slope.sign()).reshape(point.shape)


def _time(gain: Tensor, pace: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """t with sum(gain * min(t * pace, room)) = wanted.

    The left side is concave and piecewise linear in t, so Newton's method from 0 rises to the solution in
    finitely many steps; infinite where the sum cannot reach it.
    """
    limit = torch.where(pace > 0, room / pace.clamp_min(1e-38), torch.zeros_like(room))
    reach = torch.where(gain > 0, gain * room, torch.zeros_like(room))
    time = torch.zeros_like(wanted)
    asked = 1 if gain.device.type == "cpu" else ASKED_ON_GPU
    for count in range(MAX_NEWTON_STEPS):
        moving = limit > time[:, None]
        rate = (gain * pace * moving).sum(1)
        reached = (torch.where(moving, gain * pace * time[:, None], reach)).sum(1)
        missing = wanted - reached
        going = (missing > 1e-6 * wanted) & (rate > 0)
        if count % asked == 0 and not bool(going.any()):
            break
        time = torch.where(going, time + missing / rate.clamp_min(1e-38), time)
    return time


def _greedy(gain: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """L1: move the pixels of the largest gain first, each as far as it can; the last one part of the way."""
    order = gain.argsort(dim=1, descending=True)
    worth = (gain * room).gather(1, order)
    before = worth.cumsum(1) - worth
    part = ((wanted[:, None] - before) / worth.clamp_min(1e-38)).clamp(0, 1)
    return torch.zeros_like(room).scatter(1, order, part * room.gather(1, order))
