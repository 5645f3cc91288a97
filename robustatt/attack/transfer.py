"""Momentum attacks whose images are made to fool other models too: input diversity, translation invariance, tuned variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustatt.attack.base import Batch, ModelOutput, State
from robustatt.attack.gradient import MiFgsm
from robustatt.attack.gradient_recipes import DiverseRecipe, TranslationRecipe, VarianceRecipe
from robustatt.attack.norms import per_row
from robustatt.attack.rng import ExampleRng, counter_uniform


class DiFgsm(MiFgsm):
    """Diverse inputs (Xie et al. 2019, section 3.3): each gradient is that of the image randomly shrunk and padded.

    With probability `probability` the image is resized to a random side of at least `smallest` of its own and laid at a random
    place on black; otherwise the query is the image itself.
    """

    queries_are_candidates = False

    def __init__(self, recipe: DiverseRecipe) -> None:
        super().__init__(recipe)
        self.probability, self.smallest = recipe.probability, recipe.smallest

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        state = super().start(batch, rng)
        return State({**state, "key": rng.keys(batch), "count": torch.zeros_like(batch.label)})

    def query(self, state: State) -> Tensor:
        return self._varied(state["image"], state["key"], state["count"])

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        with torch.enable_grad():
            image = state["image"].detach().requires_grad_()
            varied = self._varied(image, state["key"], state["count"])
            (grad,) = torch.autograd.grad(varied, image, output.grad)
        now = super().step(batch, state, ModelOutput(output.logits, output.loss, grad))
        return State({**now, "key": state["key"], "count": state["count"] + 1})

    def _varied(self, image: Tensor, key: Tensor, count: Tensor) -> Tensor:
        draws = counter_uniform(key, count, 4)
        shrinks = draws[:, 0] < self.probability
        scale = 1 / (self.smallest + (1 - self.smallest) * draws[:, 1])
        shift = (2 * draws[:, 2:] - 1) * (scale - 1)[:, None]  # at scale s the place is free by s - 1 of half the image
        theta = torch.zeros(len(image), 2, 3, device=image.device, dtype=image.dtype)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, shift
        grid = F.affine_grid(theta, list(image.shape), align_corners=False)
        moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return torch.where(per_row(shrinks, image), moved, image)


class TiFgsm(MiFgsm):
    """Translation invariance (Dong et al. 2019, section 3.2): the gradient is blurred by a Gaussian before it is followed."""

    def __init__(self, recipe: TranslationRecipe) -> None:
        super().__init__(recipe)
        reach = torch.arange(recipe.kernel) - (recipe.kernel - 1) / 2
        row = torch.exp(-reach.square() / (2 * recipe.sigma**2))
        self.kernel = row[:, None] * row / row.sum() ** 2

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        channels = output.grad.shape[1]
        kernel = self.kernel.to(output.grad).expand(channels, 1, -1, -1)
        blurred = F.conv2d(output.grad, kernel, padding="same", groups=channels)
        return super().step(batch, state, ModelOutput(output.logits, output.loss, blurred))


class VmiFgsm(MiFgsm):
    """Variance tuning (Wang & He 2021, section 3.2, algorithm 1).

    To each gradient is added by how much the mean gradient of `neighbours` random points within `reach` eps of the last iterate
    differed from that at the iterate itself. An iterate takes 1 + `neighbours` queries, of which the first is a candidate.
    """

    def __init__(self, recipe: VarianceRecipe) -> None:
        super().__init__(recipe)
        self.neighbours, self.reach = recipe.neighbours, recipe.reach
        self.steps = recipe.steps * (1 + recipe.neighbours)

    def inside(self, batch: Batch, state: State) -> Tensor:  # noqa: ARG002
        return self._turn(state) == 0

    def _turn(self, state: State) -> Tensor:
        return state["count"] % (1 + self.neighbours)

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        zero = torch.zeros_like(batch.image)
        more = {"key": rng.keys(batch), "count": torch.zeros_like(batch.label), "moved": batch.image}
        return State({**super().start(batch, rng), **more, "here": zero, "around": zero, "variance": zero})

    def query(self, state: State) -> Tensor:
        image = state["image"]
        noise = 2 * counter_uniform(state["key"], state["count"], image[0].numel()).reshape(image.shape) - 1
        around = image + self.reach * per_row(state["eps"], image) * noise
        return torch.where(per_row(self._turn(state) == 0, image), image, around)

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        assert output.grad is not None
        turn = self._turn(state)
        first, last = per_row(turn == 0, output.grad), per_row(turn == self.neighbours, output.grad)
        now = State(state)
        tuned = super().step(batch, state, ModelOutput(output.logits, output.loss, output.grad + state["variance"]))
        for name, value in {"moved": tuned["image"], "momentum": tuned["momentum"], "here": output.grad}.items():
            now[name] = torch.where(first, value, state[name])
        now["around"] = torch.where(first, 0.0, state["around"] + output.grad)
        now["variance"] = torch.where(last, now["around"] / self.neighbours - now["here"], state["variance"])
        now["image"] = torch.where(last, now["moved"], state["image"])
        now["zero_gradient"], now["count"] = tuned["zero_gradient"], state["count"] + 1
        return now
