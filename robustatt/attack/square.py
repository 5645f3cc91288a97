"""The Square attack: random search with square windows, no gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustatt.attack.base import Batch, ModelOutput, State, SteppedAttack
from robustatt.attack.losses import LOSSES
from robustatt.attack.native_recipes import SquareRecipe
from robustatt.attack.norms import NORMS, Norm, nearest_in_ball_and_box, per_row
from robustatt.attack.rng import ExampleRng, counter_uniform

#: queries (of 10,000) after which the share of changed pixels halves again (section 3.2)
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Window(NamedTuple):
    """Where each row's square lies: a mask (n, 1, h, w), and the side, top and left of each."""

    mask: Tensor
    side: Tensor
    top: Tensor
    left: Tensor


def window(side: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Window:
    """Squares of given side and corner, each (n,), in an image of height x width."""
    down = torch.arange(height, device=side.device)
    across = torch.arange(width, device=side.device)
    inside_rows = (down >= top[:, None]) & (down < (top + side)[:, None])
    inside_columns = (across >= left[:, None]) & (across < (left + side)[:, None])
    return Window((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], side, top, left)


class Square(SteppedAttack):
    """Square attack (Andriushchenko et al. 2020, algorithm 1): L-infinity (algorithm 2), L2 (algorithm 3) and L1 (Croce & Hein 2021).

    A proposal is kept if it is better than the best so far. The side of the window follows the share `p` of
    pixels, halved on the paper's schedule for 10,000 queries, stretched to the number of queries if
    `rescale`.
    """

    needs_gradient = False

    def __init__(self, recipe: SquareRecipe) -> None:
        super().__init__(recipe.name, NORMS[recipe.norm])
        self.loss, self.targeted = LOSSES[recipe.loss], recipe.targeted
        self.steps, self.restarts = recipe.queries + 1, recipe.restarts
        self.p, self.stretch = recipe.p, 10_000 / recipe.queries if recipe.rescale else 1.0
        self._sides: dict[tuple[int, int, torch.device], Tensor] = {}
        self.proposals: Proposals = {"linf": LinfProposals, "l2": L2Proposals, "l1": L1Proposals}[recipe.norm]()

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        key, count = rng.keys(batch), torch.zeros_like(batch.label)
        image = self.proposals.first(batch, key)
        worst = torch.full_like(batch.eps, -torch.inf)
        return State(image=image, best=image, best_loss=worst, key=key, count=count)

    def candidate(self, state: State) -> Tensor:
        return state["best"]

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        better = output.loss > state["best_loss"]
        best = torch.where(per_row(better, state["image"]), state["image"], state["best"])
        count = state["count"] + 1
        side = self._side(count - 1, batch.image)
        return State(
            image=self.proposals.next(batch, best, side, state["key"], count), best=best,
            key=state["key"], count=count,
            best_loss=torch.where(better, output.loss, state["best_loss"]),
        )  # fmt: skip

    def _side(self, iteration: Tensor, image: Tensor) -> Tensor:
        """The side of the window at each row's iteration, from a table made once for an image size."""
        height, width = image.shape[2:]
        key = height, width, image.device
        if key not in self._sides:
            reached = (torch.arange(self.steps + 1) * self.stretch).floor()
            halvings = (reached[:, None] > torch.tensor(HALVINGS)).sum(1)
            side = (self.p * height * width * 0.5**halvings).sqrt().round().long()
            self._sides[key] = self.proposals.allowed(side, min(height, width)).to(image.device)
        return self._sides[key][iteration]


class Proposals:
    """How a norm draws its first image and changes the best one within a window."""

    norm: Norm

    def first(self, batch: Batch, key: Tensor) -> Tensor:
        raise NotImplementedError

    def next(self, batch: Batch, best: Tensor, side: Tensor, key: Tensor, count: Tensor) -> Tensor:
        raise NotImplementedError

    def allowed(self, side: Tensor, most: int) -> Tensor:
        raise NotImplementedError


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0)


def _corner(draw: Tensor, side: Tensor, size: int) -> Tensor:
    """A uniform position of a window of this side along an axis of this size."""
    return (draw * (size - side + 1)).floor().long().clamp(max=size - 1)


class LinfProposals(Proposals):
    """Vertical stripes of +-eps first; then one colour of +-eps a channel in the window (algorithm 2)."""

    def first(self, batch: Batch, key: Tensor) -> Tensor:
        n, channels, _, width = batch.image.shape
        signs = _signs(counter_uniform(key, torch.zeros_like(key), channels * width)).reshape(n, channels, 1, width)
        return (batch.image + per_row(batch.eps, signs) * signs).clamp(0.0, 1.0)

    def next(self, batch: Batch, best: Tensor, side: Tensor, key: Tensor, count: Tensor) -> Tensor:
        n, channels, height, width = best.shape
        draws = counter_uniform(key, count, 2 + channels)
        place = window(side, _corner(draws[:, 0], side, height), _corner(draws[:, 1], side, width), height, width)
        colour = per_row(batch.eps, best) * _signs(draws[:, 2:]).reshape(n, channels, 1, 1)
        return torch.where(place.mask, (batch.image + colour).clamp(0.0, 1.0), best)

    def allowed(self, side: Tensor, most: int) -> Tensor:
        return side.clamp(1, most)


def pyramid(height: int, width: int, order: int = 2) -> Tensor:
    """Nested rectangles around the centre, of length 1 in the norm of this order; the k-th has weight 1 / (k + 1)^2 in L2
    (section 3.4) and 1 / (k + 1)^4 in L1."""
    down, across = torch.arange(height)[:, None], torch.arange(width)[None, :]
    weight = torch.zeros(height, width)
    for k in range(max(height, width) // 2 + 1):
        inside = ((down - height // 2).abs() <= k) & ((across - width // 2).abs() <= k)
        weight += inside / (k + 1) ** (4 if order == 1 else 2)
    unit: Tensor = weight / torch.linalg.vector_norm(weight, ord=order)
    return unit


def bump(side: int, order: int = 2) -> Tensor:
    """Two pyramids of opposite sign, one above the other, of length 1 in the norm of this order."""
    if side < 2:
        return torch.ones(side, side)
    upper = side // 2
    both = torch.cat([pyramid(upper, side, order), -pyramid(side - upper, side, order)])
    unit: Tensor = both / torch.linalg.vector_norm(both, ord=order)
    return unit


class L2Proposals(Proposals):
    """Bumps on a grid first; then a window's budget is moved into another window, with a new bump (algorithm
    3)."""

    order = 2

    def __init__(self) -> None:
        self._bumps: dict[int, Tensor] = {}

    def allowed(self, side: Tensor, most: int) -> Tensor:
        odd = side.clamp_min(3) // 2 * 2 + 1
        return odd.clamp(max=most if most % 2 else most - 1).clamp_min(1)

    def first(self, batch: Batch, key: Tensor) -> Tensor:
        n, channels, height, width = batch.image.shape
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        signs = _signs(counter_uniform(key, torch.zeros_like(key), down * across * (channels + 1)))
        signs = signs.reshape(n, channels + 1, down, across)
        tile = bump(side, self.order).to(signs)
        upright = (signs[:, :1] > 0).repeat_interleave(side, 2).repeat_interleave(side, 3)
        tiles = torch.where(upright, tile.repeat(down, across), tile.T.repeat(down, across))
        delta = torch.zeros_like(batch.image)
        top, left = (height - side * down) // 2, (width - side * across) // 2
        coloured = tiles * signs[:, 1:].repeat_interleave(side, 2).repeat_interleave(side, 3)
        delta[:, :, top : top + side * down, left : left + side * across] = coloured
        return self._scaled(batch, delta)

    def next(self, batch: Batch, best: Tensor, side: Tensor, key: Tensor, count: Tensor) -> Tensor:
        n, channels, height, width = best.shape
        draws = counter_uniform(key, count, 5 + channels)
        corners = [_corner(draws[:, i], side, (height, width)[i % 2]) for i in range(4)]
        here = window(side, corners[0], corners[1], height, width)
        there = window(side, corners[2], corners[3], height, width)
        delta = best - batch.image
        old = delta * here.mask
        signs = _signs(draws[:, 5:]).reshape(n, channels, 1, 1)
        new = self._bump(here, draws[:, 4] < 0.5) * signs + old / self._length(old).clamp_min(1e-12)
        new = new / self._length(new).clamp_min(1e-12) * self._budget(batch, delta, here.mask | there.mask)
        moved = torch.where(here.mask, new, torch.where(there.mask, 0.0, delta))
        return self._scaled(batch, moved)

    def _bump(self, place: Window, flipped: Tensor) -> Tensor:
        """Each row's bump, (n, 1, h, w), laid into its window; transposed where flipped."""
        height, width = place.mask.shape[2:]
        sides = sorted(set(place.side.tolist()))
        most = max(sides)
        table = torch.zeros(len(sides), most, most)
        for row, side in enumerate(sides):
            table[row, :side, :side] = self._bumps.setdefault(side, bump(side, self.order))
        table = table.to(place.top.device)
        which = torch.searchsorted(torch.tensor(sides, device=place.side.device), place.side)[:, None, None]
        down = (torch.arange(height, device=which.device) - place.top[:, None]).clamp(0, most - 1)[:, :, None]
        across = (torch.arange(width, device=which.device) - place.left[:, None]).clamp(0, most - 1)[:, None, :]
        swap = flipped[:, None, None]
        laid = torch.where(swap, table[which, across, down], table[which, down, across])
        return laid[:, None] * place.mask

    def _length(self, delta: Tensor) -> Tensor:
        """The length of each channel, (n, c, 1, 1)."""
        length: Tensor = torch.linalg.vector_norm(delta, ord=self.order, dim=(2, 3), keepdim=True)
        return length

    def _budget(self, batch: Batch, delta: Tensor, windows: Tensor) -> Tensor:
        """How long each channel of the new window may be: what both windows held, and a share of what is unused."""
        unused = (batch.eps**2 - delta.flatten(1).square().sum(1)).clamp_min(0) / delta.shape[1]
        return (self._length(delta * windows) ** 2 + per_row(unused, delta)).sqrt()

    def _scaled(self, batch: Batch, delta: Tensor) -> Tensor:
        length = NORMS["l2"].norm(delta).clamp_min(1e-12)
        return (batch.image + delta * per_row(batch.eps / length, delta)).clamp(0.0, 1.0)


class L1Proposals(L2Proposals):
    """The same search in L1 (Croce & Hein 2021, section 3.4): steeper bumps, projected onto ball and box.

    As published, the new window of each channel may hold what all channels together have room for; the projection takes back
    what is too much.
    """

    order = 1

    def _budget(self, batch: Batch, delta: Tensor, windows: Tensor) -> Tensor:
        unused = (batch.eps - delta.flatten(1).abs().sum(1)).clamp_min(0)
        return self._length(delta * windows) * delta.shape[1] + per_row(unused, delta)

    def _scaled(self, batch: Batch, delta: Tensor) -> Tensor:
        return batch.image + nearest_in_ball_and_box(batch.image, delta, batch.eps)
