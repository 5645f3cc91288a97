"""What several corruptions are made of: random numbers of each image, linear maps along an axis, shifts and fractals.

Images are float64 tensors of shape (n, channels, height, width) in [0, 1], so that neither the batch nor the order in which a
library adds up decides a pixel of the 8-bit result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

Rng = np.random.Generator
Images = Float[Tensor, "n c h w"]


def drawn(rngs: Sequence[Rng], draw: Callable[[Rng], np.ndarray]) -> Tensor:
    """One array from the generator of each image, stacked."""
    return torch.from_numpy(np.stack([draw(rng) for rng in rngs]))


def pixel_noise(rngs: Sequence[Rng], x: Images, draw: Callable[[Rng, tuple[int, ...]], np.ndarray]) -> Images:
    """Independent numbers for each pixel, in the order (height, width, channel) in which the published code draws them."""
    _, channels, height, width = x.shape
    return drawn(rngs, lambda rng: draw(rng, (height, width, channels))).movedim(3, 1)


@lru_cache(maxsize=64)
def gaussian_operator(size: int, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Float[Tensor, "size size"]:
    """The matrix of scipy's Gaussian filter along an axis of this many pixels."""
    if sigma <= 0:
        return torch.eye(size, dtype=torch.float64)
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate))


@lru_cache(maxsize=256)
def zoom_operator(size: int, factor: float) -> Float[Tensor, "size size"]:
    """The matrix that enlarges the middle of an axis by linear interpolation and cuts it to its length again."""
    kept = math.ceil(size / factor)
    first = (size - kept) // 2
    enlarged = ndimage.zoom(np.eye(kept), (factor, 1), order=1)
    trim = (len(enlarged) - size) // 2
    matrix = np.zeros((size, size))
    matrix[:, first : first + kept] = enlarged[trim : trim + size]
    return torch.from_numpy(matrix)


def along_axes(x: Float[Tensor, "*n h w"], rows: Float[Tensor, "h h"], columns: Float[Tensor, "w w"]) -> Float[Tensor, "*n h w"]:
    """A matrix applied along the height and one along the width."""
    return rows @ (x @ columns.T)


def smoothed(x: Float[Tensor, "*n h w"], sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Float[Tensor, "*n h w"]:
    """A Gaussian blur."""
    height, width = x.shape[-2:]
    return along_axes(x, gaussian_operator(height, sigma, mode, truncate), gaussian_operator(width, sigma, mode, truncate))


def motion_blurred(x: Images, radius: int, sigma: float, degrees: Float[Tensor, " n"]) -> Images:
    """ImageMagick's motion blur, a one-sided Gaussian along a line at an angle of each image, rounded to 8 bits as there.

    Taps lie on whole pixels; beyond the border its own pixel counts.
    """
    n, channels, height, width = x.shape
    taps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle = torch.deg2rad(degrees)[:, None]
    down = torch.ceil(taps * torch.sin(angle) - 0.5).long()
    right = torch.ceil(taps * torch.cos(angle) - 0.5).long()
    flat, blurred = x.flatten(2), torch.zeros_like(x).flatten(2)
    for tap, weight in enumerate(weights.tolist()):
        y = (torch.arange(height) + down[:, tap, None]).clamp(0, height - 1)
        along = (torch.arange(width) + right[:, tap, None]).clamp(0, width - 1)
        place = (y[:, :, None] * width + along[:, None, :]).reshape(n, 1, -1)
        blurred += weight * flat.gather(2, place.expand(n, channels, -1))
    return torch.round(255 * blurred.clamp(0, 1)).view_as(x) / 255


def fractal(rngs: Sequence[Rng], size: int, decay: float) -> Float[Tensor, "n size size"]:
    """A cloud of the diamond-square algorithm (Fournier, Fussell & Carpenter 1982) on a torus, from 0 to 1.

    `size` is a power of two; `decay` says by how much the random part shrinks from one scale to the next.
    """
    noise = 2 * drawn(rngs, lambda rng: rng.random(size * size)) - 1
    cloud = torch.zeros(len(rngs), size, size, dtype=torch.float64)
    step, strength, used = size, 100.0, 0
    while step >= 2:
        half = step // 2
        corners = cloud[:, ::step, ::step]

        def jolted(total: Tensor, strength: float = strength) -> Tensor:
            nonlocal used
            count = total[0].numel()
            found = noise[:, used : used + count].view_as(total)
            used += count
            return total / 4 + strength**2 * found

        pairs = corners + corners.roll(-1, 1)
        middle = jolted(pairs + pairs.roll(-1, 2))
        cloud[:, half::step, half::step] = middle
        cloud[:, ::step, half::step] = jolted(middle + middle.roll(1, 1) + corners + corners.roll(-1, 2))
        cloud[:, half::step, ::step] = jolted(middle + middle.roll(1, 2) + corners + corners.roll(-1, 1))
        step, strength = half, strength / decay
    flat = cloud.flatten(1)
    low = flat.amin(1)[:, None, None]
    return (cloud - low) / (flat.amax(1)[:, None, None] - low)


def cloud_over(rngs: Sequence[Rng], x: Images, decay: float) -> Float[Tensor, "n 1 h w"]:
    """The corner of a fractal that covers images."""
    height, width = x.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    return fractal(rngs, size, decay)[:, None, :height, :width]


def scattered(source: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
    """Where each of k places has its content from, after place by place, from the last to the first, took what lay at its source.

    A source further on has been overwritten by then: what counts is where that one has its content from.
    """
    place, found = np.broadcast_to(np.arange(source.shape[1]), source.shape), source
    while (overwritten := found > place).any():
        place, found = np.where(overwritten, found, place), np.where(overwritten, np.take_along_axis(source, found, 1), found)
    return found
