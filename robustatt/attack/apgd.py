"""Auto-PGD: gradient ascent that sets its own step size (Croce & Hein 2020; for L1, Croce & Hein 2021)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from robustatt.attack.base import Batch, MapLoss, ModelOutput, State, SteppedAttack
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import LOSSES, Loss, target_margin, targeted_logits_ratio
from robustatt.attack.native_recipes import ApgdRecipe, ApgdTargetedRecipe
from robustatt.attack.norms import NORMS, nearest_in_ball_and_box, per_row, project
from robustatt.attack.rng import ExampleRng
from robustatt.attack.target_classes import kth_class


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


class _Constant:
    """A tensor that every step needs, kept on each device where it was asked for."""

    def __init__(self, value: Tensor) -> None:
        self._copies = {value.device: value}

    def on(self, device: torch.device) -> Tensor:
        """The tensor there."""
        if device not in self._copies:
            self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]


class AutoPgd(SteppedAttack):
    """What the two forms share: the best point so far, each row's own count of steps, and the goals of APGD-T.

    A targeted recipe (APGD-T, Croce & Hein 2020, section 5.1) makes one run for each of the likeliest wrong classes
    on the targeted DLR loss: the restart number says which, by rank of the clean image's logits. Any mistake is a
    success.
    """

    def __init__(self, recipe: ApgdRecipe | ApgdTargetedRecipe, classes: int) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss: Loss = LOSSES[recipe.loss]
        self.steps, self.eot, self.rho = recipe.steps, recipe.eot, recipe.rho
        self.ranked = isinstance(recipe, ApgdTargetedRecipe)
        self.target_loss = targeted_logits_ratio if recipe.loss == "dlr" else target_margin
        if isinstance(recipe, ApgdRecipe):
            self.restarts, self.targeted = recipe.restarts, recipe.targeted
        else:
            self.restarts = min(recipe.targets, classes - 1)

    @abstractmethod
    def _begin(self, batch: Batch, rng: ExampleRng) -> State:
        """The first "image", and the memory of this form."""

    @abstractmethod
    def _check(self, batch: Batch, now: State, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Where to go on from and the gradient there; at checkpoints `now` gets another step size."""

    @abstractmethod
    def _move(self, batch: Batch, now: State, image: Tensor, grad: Tensor) -> Tensor:
        """The next iterate."""

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        state, zero = self._begin(batch, rng), torch.zeros_like(batch.eps)
        image = state["image"]
        state |= State(
            previous=image, best=image, best_grad=torch.zeros_like(image), best_loss=zero - torch.inf,
            count=torch.zeros_like(batch.label), zero_gradient=torch.ones_like(batch.eps),
        )  # fmt: skip
        if self.ranked:
            state["target_class"] = kth_class(batch.clean, batch.label, batch.restart)
        return state

    def objective(self, batch: Batch, state: State) -> Loss | MapLoss:
        if not self.ranked:
            return super().objective(batch, state)
        return lambda logits, label: self.target_loss(logits, label, state["target_class"])

    def candidate(self, state: State) -> Tensor:
        return state["image"]

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        """Take in the loss and gradient at iterate number `count`, then move to the next."""
        assert output.grad is not None
        now = self._remember(state, output)
        image, grad = self._check(batch, now, output.grad)
        now["previous"], now["image"] = image, self._move(batch, now, image, grad)
        now["count"] = state["count"] + 1
        now["zero_gradient"] = still_zero_gradient(state, output.grad)
        return now

    def _remember(self, state: State, output: ModelOutput) -> State:
        """The best point so far."""
        assert output.grad is not None
        now = State(state)
        better = output.loss > state["best_loss"]
        now["best_loss"] = torch.where(better, output.loss, state["best_loss"])
        now["best"] = torch.where(per_row(better, output.grad), state["image"], state["best"])
        now["best_grad"] = torch.where(per_row(better, output.grad), output.grad, state["best_grad"])
        return now


class Apgd(AutoPgd):
    """Auto-PGD (Croce & Hein 2020, section 3, algorithm 1), for L-infinity and L2.

    Starts on the ball's surface with steps of 2 eps. At each checkpoint the step is halved, and the search
    continues from the best point, if (1) the loss rose in fewer than `rho` of the steps since the last
    checkpoint, or (2) the step was not halved there and the best loss has not changed since.
    """

    MOMENTUM = 0.75

    def __init__(self, recipe: ApgdRecipe | ApgdTargetedRecipe, classes: int) -> None:
        super().__init__(recipe, classes)
        marks = checkpoints(self.steps)
        window = torch.zeros(self.steps + 1)  # by iteration: the length of the window it closes, or 0
        for before, mark in zip([0, *marks], marks, strict=False):
            window[mark] = mark - before
        self._window = _Constant(window)

    def _begin(self, batch: Batch, rng: ExampleRng) -> State:
        if self.norm.name == "linf":
            delta = rng.uniform(batch)
            delta = delta / per_row(self.norm.norm(delta), delta)
        else:
            delta = self.norm.steepest_direction(rng.normal(batch))
        image = project(self.norm, batch.image, batch.image + delta * per_row(batch.eps, delta), batch.eps)
        zero = torch.zeros_like(batch.eps)
        return State(
            image=image, last_loss=zero + torch.inf, checked_loss=zero - torch.inf, rises=zero, halved=zero + 1,
            stride=2 * batch.eps,
        )  # fmt: skip

    def _remember(self, state: State, output: ModelOutput) -> State:
        """Counts of rises as well."""
        now = super()._remember(state, output)
        now["rises"] = state["rises"] + (output.loss > state["last_loss"])
        now["last_loss"] = output.loss
        now["checked_loss"] = torch.where(state["count"] == 0, output.loss, state["checked_loss"])
        return now

    def _check(self, batch: Batch, now: State, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        window = self._window.on(grad.device)[now["count"]]
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

    def _move(self, batch: Batch, now: State, image: Tensor, grad: Tensor) -> Tensor:
        """z = project(x + stride * steepest), then x + 0.75 (z - x) + 0.25 (x - x_before); at first z."""
        stride = per_row(now["stride"], grad)
        ahead = project(self.norm, batch.image, image + stride * self.norm.steepest_direction(grad), batch.eps)
        inertia = image - now["previous"]
        blended = image + self.MOMENTUM * (ahead - image) + (1 - self.MOMENTUM) * inertia
        blended = project(self.norm, batch.image, blended, batch.eps)
        return torch.where(per_row(now["count"] == 0, grad), ahead, blended)


class SparseApgd(AutoPgd):
    """Auto-PGD for L1 (Croce & Hein 2021, "Mind the box", algorithm 1).

    Each step moves the pixels with the largest gradients, all by the same amount, and projects onto the intersection
    of ball and box. At first that is a fifth of the pixels; every 4 % of the steps it is set to two thirds of those
    that the best point changes. Where that number has fallen by 5 % the search continues from the best point with a
    full step of eps, elsewhere the step shrinks by 1.5 down to a tenth of eps.

    With `larger_radii` (section 3.3) 30 % of the steps each are spent in balls of three and two times the radius, and
    the best point of one, projected, is where the next begins.
    """

    FIRST_SHARE, REDUCTION, SMALLEST, FEWER = 0.2, 1.5, 0.1, 0.95

    def __init__(self, recipe: ApgdRecipe | ApgdTargetedRecipe, classes: int) -> None:
        super().__init__(recipe, classes)
        self.larger_radii = bool(recipe.larger_radii)
        self.balls = _balls(self.steps, [(3, 0.3), (2, 0.3)] if self.larger_radii else [])
        self._tables = {
            name: _Constant(torch.tensor([getattr(ball, name) for ball in self.balls])) for name in ("factor", "first", "due")
        }

    def inside(self, batch: Batch, state: State) -> Tensor:  # noqa: ARG002
        return self._table("factor", state["count"]) == 1

    def _table(self, name: str, count: Tensor) -> Tensor:
        return self._tables[name].on(count.device)[count]

    def _radius(self, batch: Batch, count: Tensor) -> Tensor:
        return batch.eps * self._table("factor", count)

    def _begin(self, batch: Batch, rng: ExampleRng) -> State:
        radius = self._radius(batch, torch.zeros_like(batch.label))
        image = batch.image + nearest_in_ball_and_box(batch.image, rng.normal(batch), radius)
        pixels = torch.full_like(batch.eps, batch.image[0].numel())
        changed = self._changed(batch, image) if self.larger_radii else pixels
        share = changed / pixels / self.REDUCTION if self.larger_radii else torch.full_like(batch.eps, self.FIRST_SHARE)
        return State(image=image, stride=radius, share=share, changed=changed)

    @staticmethod
    def _changed(batch: Batch, image: Tensor) -> Tensor:
        """How many pixels of each row differ from the clean image."""
        return ((image - batch.image).flatten(1) != 0).sum(1).to(image.dtype)

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        now = super().step(batch, state, output)
        enters = self._table("first", now["count"]) & (now["count"] > 0)
        if not bool(enters.any()):
            return now
        radius = self._radius(batch, now["count"])
        image = batch.image + nearest_in_ball_and_box(batch.image, now["best"] - batch.image, radius)
        changed = self._changed(batch, image)
        fresh = {
            "image": image, "previous": image, "best": image, "best_loss": torch.full_like(radius, -torch.inf),
            "stride": radius, "changed": changed, "share": changed / image[0].numel() / self.REDUCTION,
        }  # fmt: skip
        now |= {name: torch.where(per_row(enters, value), value, now[name]) for name, value in fresh.items()}
        return now

    def _check(self, batch: Batch, now: State, grad: Tensor) -> tuple[Tensor, Tensor]:
        due = self._table("due", now["count"])
        radius = self._radius(batch, now["count"])
        changed = self._changed(batch, now["best"])
        sparser = changed < self.FEWER * now["changed"]
        smaller = torch.maximum(now["stride"] / self.REDUCTION, self.SMALLEST * radius)
        now["stride"] = torch.where(due, torch.where(sparser, radius, smaller), now["stride"])
        now["share"] = torch.where(due, changed / grad[0].numel() / self.REDUCTION, now["share"])
        now["changed"] = torch.where(due, changed, now["changed"])
        back = per_row(due & sparser, grad)
        return torch.where(back, now["best"], now["image"]), torch.where(back, now["best_grad"], grad)

    def _move(self, batch: Batch, now: State, image: Tensor, grad: Tensor) -> Tensor:
        size = grad.flatten(1).abs()
        last = size.shape[1] - 1
        rank = ((1 - now["share"]) * size.shape[1]).long().clamp(0, last)
        least = size.sort(dim=1).values.gather(1, rank[:, None])
        direction = torch.where(size >= least, grad.flatten(1).sign(), 0.0)
        direction = (direction / direction.abs().sum(1, keepdim=True).clamp_min(1e-10)).reshape(grad.shape)
        moved = image + per_row(now["stride"], grad) * direction - batch.image
        return batch.image + nearest_in_ball_and_box(batch.image, moved, self._radius(batch, now["count"]))


@dataclass(frozen=True)
class _Ball:
    """In which ball an iterate lies, as a multiple of the radius; whether it is the first there; whether a check is due."""

    factor: int
    first: bool
    due: bool


def _balls(steps: int, larger: list[tuple[int, float]]) -> list[_Ball]:
    """For each iterate, the last candidate included: a share of the steps in each larger ball, the others in the ball itself."""
    lengths = [(factor, math.ceil(share * steps)) for factor, share in larger]
    lengths.append((1, steps - sum(length for _, length in lengths)))
    windows = [max(int(0.04 * length), 1) for _, length in lengths]
    found = [
        _Ball(factor, place == 0, place > 0 and place % window == 0)
        for (factor, length), window in zip(lengths, windows, strict=True) for place in range(length)
    ]  # fmt: skip
    return [*found, _Ball(1, first=False, due=False)]


def auto_pgd(recipe: ApgdRecipe | ApgdTargetedRecipe, classes: int) -> AutoPgd:
    """Auto-PGD as the norm of the recipe needs it."""
    return (SparseApgd if recipe.norm == "l1" else Apgd)(recipe, classes)
