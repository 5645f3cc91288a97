"""The attacks of Carlini & Wagner and of Chen et al.: the distance plus a constant times the margin, the constant searched for."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from robustatt.attack.base import Batch, MinimumNormAttack, ModelOutput, State
from robustatt.attack.gradient import still_zero_gradient
from robustatt.attack.losses import logit_margin
from robustatt.attack.native_recipes import CarliniWagnerRecipe, ElasticNetRecipe, PenaltyRecipe
from robustatt.attack.norms import NORMS, per_row
from robustatt.attack.rng import ExampleRng

LARGEST_CONSTANT = 1e10


class PenaltyAttack(MinimumNormAttack):
    """Minimises distance + constant * max(label's logit - best other, -confidence) in `searches` runs of `run` steps.

    The constant grows tenfold until a run finds a mistake, and is then bisected: between the largest that failed and the
    smallest that succeeded (Carlini & Wagner 2017, section VI-D).
    """

    def __init__(self, recipe: PenaltyRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss = logit_margin
        self.run, self.steps = recipe.steps, recipe.searches * recipe.steps + 1
        self.step_size, self.first_constant, self.confidence = recipe.step_size, recipe.constant, recipe.confidence

    @abstractmethod
    def begin(self, clean: Tensor) -> State:
        """The start of a run, its "image" included."""

    @abstractmethod
    def descend(self, batch: Batch, state: State, pull: Tensor) -> State:
        """The run's state after one step; `pull` is the gradient of the constant times the margin, at the image."""

    def start(self, batch: Batch, rng: ExampleRng) -> State:  # noqa: ARG002
        zero = torch.zeros_like(batch.eps)
        return State(
            **self.begin(batch.image), nearest=batch.image, distance=zero + torch.inf, constant=zero + self.first_constant, low=zero, high=zero + torch.inf,
            found=zero, count=torch.zeros_like(batch.label), zero_gradient=zero + 1,
        )  # fmt: skip

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        now, mistake = self.seen(batch, state, state["image"], output.logits, output.slack)
        now["found"] = torch.maximum(state["found"], mistake.to(state["found"]))
        active = (output.loss < self.confidence).to(output.grad) * state["constant"]
        now |= self.descend(batch, state, -output.grad * per_row(active, output.grad))
        now["count"], now["zero_gradient"] = state["count"] + 1, still_zero_gradient(state, output.grad)
        ends = now["count"] % self.run == 0
        if not bool(ends.any()):
            return now
        for name, value in {**self._next_constant(now), **self.begin(batch.image)}.items():
            now[name] = torch.where(ends.reshape(-1, *[1] * (value.ndim - 1)), value, now[name])
        return now

    def _next_constant(self, now: State) -> State:
        found = now["found"] > 0
        low = torch.where(found, now["low"], torch.maximum(now["low"], now["constant"]))
        high = torch.where(found, torch.minimum(now["high"], now["constant"]), now["high"])
        grown = (10 * now["constant"]).clamp(max=LARGEST_CONSTANT)
        return State(low=low, high=high, constant=torch.where(high.isinf(), grown, (low + high) / 2), found=torch.zeros_like(low))


class CarliniWagner(PenaltyAttack):
    """L2 (Carlini & Wagner 2017, section VI-A): Adam on w, where the image is (tanh w + 1) / 2 and so lies in the box."""

    INSIDE, FIRST, SECOND, TINY = 1 - 1e-6, 0.9, 0.999, 1e-8

    def __init__(self, recipe: CarliniWagnerRecipe) -> None:
        super().__init__(recipe)

    def begin(self, clean: Tensor) -> State:
        bent = ((2 * clean - 1) * self.INSIDE).atanh()
        zero = torch.zeros_like(clean)
        return State(bent=bent, image=(bent.tanh() + 1) / 2, mean=zero, square=zero, age=zero.flatten(1)[:, 0])

    def descend(self, batch: Batch, state: State, pull: Tensor) -> State:
        image = state["image"]
        start = (((2 * batch.image - 1) * self.INSIDE).atanh().tanh() + 1) / 2
        grad = (2 * (image - start) + pull) * (1 - state["bent"].tanh().square()) / 2
        age = state["age"] + 1
        mean = self.FIRST * state["mean"] + (1 - self.FIRST) * grad
        square = self.SECOND * state["square"] + (1 - self.SECOND) * grad.square()
        ahead = mean / per_row(1 - self.FIRST**age, grad)
        scale = (square / per_row(1 - self.SECOND**age, grad)).sqrt() + self.TINY
        bent = state["bent"] - self.step_size * ahead / scale
        return State(bent=bent, image=(bent.tanh() + 1) / 2, mean=mean, square=square, age=age)


class ElasticNet(PenaltyAttack):
    """L1 (Chen et al. 2018, section 4, algorithm 1): accelerated steps down the margin and the squared L2 distance, after each
    of which changes shrink by `beta`, those smaller than it to none.

    Gradients are taken ahead of the shrunk image, as the acceleration needs; the shrunk image is looked at for a mistake.
    """

    looks_after_step = True

    def __init__(self, recipe: ElasticNetRecipe) -> None:
        super().__init__(recipe)
        self.beta = recipe.beta

    def begin(self, clean: Tensor) -> State:
        return State(image=clean, shrunk=clean, ahead=clean, age=torch.zeros_like(clean.flatten(1)[:, 0]))

    def descend(self, batch: Batch, state: State, pull: Tensor) -> State:
        clean, age = batch.image, state["age"] + 1
        stride = per_row(self.step_size * (1 - state["age"] / self.run).clamp_min(0).sqrt(), pull)
        change = state["image"] - stride * (pull + 2 * (state["image"] - clean)) - clean
        shrunk = (clean + change.sign() * (change.abs() - self.beta).clamp_min(0)).clamp(0.0, 1.0)
        ahead = shrunk + per_row(age / (age + 3), pull) * (shrunk - state["shrunk"])
        return State(image=shrunk, shrunk=shrunk, ahead=ahead.clamp(0.0, 1.0), age=age)

    def looked(self, batch: Batch, state: State, logits: Tensor) -> State:
        now, mistake = self.seen(batch, state, state["image"], logits)
        now["found"] = torch.maximum(state["found"], mistake.to(state["found"]))
        now["image"] = state["ahead"]
        return now
