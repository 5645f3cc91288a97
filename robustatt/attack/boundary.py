"""The boundary attack: a random walk along the decision boundary that asks for labels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, MinimumNormAttack, ModelOutput, State
from robustatt.attack.losses import logit_margin
from robustatt.attack.native_recipes import BoundaryRecipe
from robustatt.attack.norms import NORMS, per_row
from robustatt.attack.rng import ExampleRng, counter_uniform

BISECTIONS = 12
#: how step sizes follow success: half of the moves along the boundary, and somewhat over a quarter of those towards the image
GROW_ALONG, SHRINK_ALONG = 1.1, 1 / 1.1
GROW_TOWARDS, SHRINK_TOWARDS = 1.3, 0.9


class Boundary(MinimumNormAttack):
    """Boundary attack (Brendel, Rauber & Bethge 2018, algorithm 1 and section 2.3).

    Draws images of noise until one is a mistake, bisects towards the clean image, and then walks: a random move at constant
    distance, asked about to set its size, and the same move followed by one towards the clean image.
    """

    needs_gradient = False

    def __init__(self, recipe: BoundaryRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss = logit_margin
        self.steps = recipe.queries

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        zero = torch.zeros_like(batch.eps)
        key, count = rng.keys(batch), torch.zeros_like(batch.label)
        return State(
            image=_noise(batch.image, key, count), nearest=batch.image, distance=zero + torch.inf, key=key, count=count, age=count,
            low=zero, along=zero + 0.1, towards=zero + 0.1, far=batch.image,
        )  # fmt: skip

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        now, mistake = self.seen(batch, state, state["image"], output.logits)
        walking = state["age"] > BISECTIONS
        sizing = walking & (state["age"] % 2 == 1)
        moving = walking & ~sizing
        along = state["along"] * torch.where(mistake, GROW_ALONG, SHRINK_ALONG)
        towards = state["towards"] * torch.where(mistake, GROW_TOWARDS, SHRINK_TOWARDS)
        now["along"] = torch.where(sizing, along.clamp(1e-5, 1.0), state["along"])
        now["towards"] = torch.where(moving, towards.clamp(1e-5, 0.9), state["towards"])
        bisecting = (state["age"] > 0) & ~walking
        middle = self.norm.norm(state["image"] - batch.image)
        now["low"] = torch.where(bisecting & ~mistake, middle, state["low"])
        now["age"] = torch.where(now["distance"].isfinite(), state["age"] + 1, 0)
        now["count"] = state["count"] + 1
        now["image"] = self._next(batch, now)
        return now

    def _next(self, batch: Batch, now: State) -> Tensor:
        clean, known = batch.image, now["distance"].isfinite()
        reach = torch.where(known, now["distance"], 1.0)
        between = clean + (now["nearest"] - clean) * per_row((now["low"] + reach) / 2 / reach.clamp_min(1e-12), clean)
        walk = self._walk(clean, now, reach)
        later = torch.where(per_row(now["age"] > BISECTIONS, clean), walk, between)
        return later if bool(known.all()) else torch.where(per_row(known, clean), later, _noise(clean, now["key"], now["count"]))

    def _walk(self, clean: Tensor, now: State, reach: Tensor) -> Tensor:
        """The move at constant distance, and in every second query from there towards the clean image."""
        back = now["nearest"] - clean
        unit = back / per_row(reach.clamp_min(1e-12), back)
        draw = _normal(now["key"], now["count"] - (now["age"] + 1) % 2, back)
        draw = draw - unit * per_row((draw * unit).flatten(1).sum(1), draw)
        draw = draw / per_row(self.norm.norm(draw).clamp_min(1e-12), draw) * per_row(now["along"] * reach, draw)
        aside = back + draw
        aside = aside * per_row(reach / self.norm.norm(aside).clamp_min(1e-12), aside)
        share = torch.where(now["age"] % 2 == 0, 1 - now["towards"], 1.0)
        return (clean + aside * per_row(share, aside)).clamp(0.0, 1.0)


def _normal(key: Tensor, count: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers that belong to each row's count (Box & Muller 1958)."""
    size = like[0].numel()
    draws = counter_uniform(key, count, 2 * size)
    length = (-2 * (1 - draws[:, :size]).log()).sqrt()
    return (length * torch.cos(2 * torch.pi * draws[:, size:])).reshape(like.shape)


def _noise(like: Tensor, key: Tensor, count: Tensor) -> Tensor:
    """An image that may be a mistake: by turns grey noise, black and white noise, stripes, one colour."""
    draws = counter_uniform(key, count, like[0].numel()).reshape(like.shape)
    kinds = torch.stack([draws, draws.round(), draws[:, :, :1].expand_as(like), draws[:, :, :1, :1].expand_as(like)])
    return kinds[count % 4, torch.arange(len(like), device=like.device)]
