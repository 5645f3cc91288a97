"""Which keys of an attention are which positions of the image: tokens in rows, or windows put back in place.

Where every image has one row of the batch, the tokens are the positions of a grid behind a few tokens of another kind
(class token, registers). Where it has several, as in windowed, shifted-window and grid attention, the arithmetic of
the network is asked: each key depends on one position of the features that were cut into windows, so the gradient
of a sum of keys, each multiplied by a number of its own, says by its factor which key every position went to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_PREFIX = 16
"""The most tokens that are no patches: class token, distillation token, registers."""

ROUNDING = 0.05
"""How far a key's number may lie from a whole one and still be read."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """One row of the batch an image (and head): `prefix` tokens, then the positions of `grid` row by row.

    `of_class`: whether the first token asks for the class, so that its row is the map; else it is the mean of all rows.
    """

    prefix: int
    grid: Grid
    of_class: bool

    def rows(self, weights: Float[Tensor, "b queries keys"]) -> Float[Tensor, "b keys"]:
        """The row of each image that its map is made of."""
        return weights[:, 0] if self.of_class else weights.mean(dim=1)

    def maps(self, rows: Float[Tensor, "n keys"]) -> Float[Tensor, "n h w"]:
        """The patches' part of the rows, divided by its sum."""
        return shares(rows[:, self.prefix :].reshape(-1, *self.grid))


@dataclass(frozen=True)
class Windows:
    """Several rows of the batch an image. The key of each position: `window` of the image, and place in it."""

    window: Int[Tensor, "h w"]
    key: Int[Tensor, "h w"]
    count: int
    images_first: bool

    def rows(self, weights: Float[Tensor, "b queries keys"]) -> Float[Tensor, "b keys"]:
        """What each key gets, mean over its window's queries."""
        return weights.mean(dim=1)

    def maps(self, rows: Float[Tensor, "b keys"]) -> Float[Tensor, "n h w"]:
        """Each position's share, windows put back in place."""
        keys = rows.shape[1]
        by_image = rows.view(-1, self.count, keys) if self.images_first else rows.view(self.count, -1, keys).transpose(0, 1)
        return shares(by_image[:, self.window.to(rows.device), self.key.to(rows.device)])


Placement = Tokens | Windows


def shares(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Non-negative maps divided by their sums; NaN where that is zero."""
    scaled = maps / maps.amax(dim=(1, 2), keepdim=True)  # so that neither very small nor very large values are lost in the sum
    return scaled / scaled.sum(dim=(1, 2), keepdim=True)


def grid_of(count: int, seen: Sequence[Grid], image: Grid) -> tuple[int, Grid] | None:
    """Prefix and grid of so many tokens: a grid that features had on the way, the latest first.

    Where features had none but the image's, the first that has the image's sides' ratio.
    """
    upright = [grid for grid in seen if is_upright(grid, image) and grid[0] * grid[1] >= 4 and grid != image]
    for height, width in reversed(upright):
        if 0 <= count - height * width <= MAX_PREFIX:
            return count - height * width, (height, width)
    if upright:
        return None
    for prefix in range(min(MAX_PREFIX, count - 4) + 1):
        height = math.isqrt((count - prefix) * image[0] // image[1])
        for rows in (height, height + 1):
            if rows and (count - prefix) % rows == 0 and is_upright((rows, (count - prefix) // rows), image):
                return prefix, (rows, (count - prefix) // rows)
    return None


def is_upright(grid: Sequence[int], image: Grid) -> bool:
    """Whether a grid has the sides' ratio of the image, to a row or column."""
    return abs(grid[0] * image[1] - grid[1] * image[0]) <= max(image)


def windows_of(values: Float[Tensor, "b keys ..."], bases: Sequence[Tensor], images: int, image: Grid) -> Windows | None:
    """The windows that values were cut into, found by the gradient to the latest features that they come from.

    `bases` are leaves of the graph, features of all `images`, the latest last. None if the values depend on none of them
    position by position.
    """
    count = len(values) // images
    generator = torch.Generator().manual_seed(0)
    tail = values[0, 0].shape
    weighed = (values * torch.randn(tail, generator=generator).to(values)).flatten(2).sum(dim=2)
    numbers = torch.arange(1, weighed.numel() + 1, device=weighed.device, dtype=weighed.dtype).view_as(weighed)
    plain = torch.autograd.grad(weighed.sum(), bases, allow_unused=True, retain_graph=True)
    numbered = torch.autograd.grad((weighed * numbers).sum(), bases, allow_unused=True, retain_graph=True)
    for base, once, times in reversed(list(zip(bases, plain, numbered, strict=True))):
        if once is None or times is None or not bool(once.any()):
            continue
        for found, grid in _numbers(base, once, times, image):
            if (windows := _windows(found.view(images, *grid), values.shape[1], count)) is not None:
                return windows
        return None
    return None


def _numbers(base: Tensor, once: Tensor, times: Tensor, image: Grid) -> list[tuple[Tensor, Grid]]:
    """For each layout that the features may have, the number of every position's key ``(images, h * w)``."""
    layouts: list[tuple[int, Grid]] = []
    if base.ndim == 4:
        layouts = [(1, (base.shape[2], base.shape[3])), (3, (base.shape[1], base.shape[2]))]
    elif base.ndim == 3 and (fitting := grid_of(base.shape[1], (), image)) and fitting[0] == 0:
        layouts = [(2, fitting[1])]
    found = []
    for channel, grid in layouts:
        if not is_upright(grid, image):
            continue
        product, square = (times * once).double().sum(channel), once.double().square().sum(channel)
        number = product / square.clamp_min(1e-300)
        left = (times.double() - number.unsqueeze(channel) * once.double()).square().sum(channel)
        if bool((square > 0).all()) and bool((left <= 1e-6 * times.double().square().sum(channel)).all()):
            found.append((number.reshape(len(base), -1), grid))
    return found


def _windows(number: Float[Tensor, "n h w"], keys: int, count: int) -> Windows | None:
    """Windows and keys from the numbers of all images, if these are whole, of one key each and the same in all images."""
    images = len(number)
    whole = number.round()
    if float((number - whole).abs().max()) > ROUNDING:
        return None
    index = whole.long() - 1
    if len(torch.unique(index)) != index.numel() or int(index.min()) < 0 or int(index.max()) >= images * count * keys:
        return None
    row, key = index // keys, index % keys
    first = torch.arange(images, device=row.device).view(-1, 1, 1)
    for window, images_first in ((row - first * count, True), ((row - first) // images, False)):
        same = bool((window == window[:1]).all() and (key == key[:1]).all() and (window >= 0).all() and (window < count).all())
        if same and (images_first or bool((row % images == first).all())):
            return Windows(window[0].cpu(), key[0].cpu(), count, images_first)
    return None
