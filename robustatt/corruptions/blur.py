"""Defocus, glass, motion, zoom and Gaussian blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage, signal, sparse
from torch import Tensor

from robustatt.corruptions.operators import Images, Rng, drawn, motion_blurred, scattered, smoothed, zoom_operator


def gaussian_blur(x: Images, sigma: float, rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """A Gaussian of this standard deviation in pixels."""
    return smoothed(x, sigma)


def defocus_blur(x: Images, lens: tuple[float, float], rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """A disk of a radius in pixels, its edge softened by a Gaussian."""
    kernel = _disk(*lens)
    margin = len(kernel) // 2
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    return torch.from_numpy(signal.fftconvolve(wide, kernel[None, None], mode="valid", axes=(2, 3)))


@lru_cache(maxsize=16)
def _disk(radius: float, softness: float) -> np.ndarray:
    """The kernel: whole pixels within the radius, blurred over 3 of them (5 for more than 8), without its empty border."""
    side = math.ceil(max(8, radius))
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    inside = (x**2 + y**2 <= radius**2).astype(float)
    reach = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-(reach**2) / (2 * softness**2))
    kernel = inside / inside.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weights / weights.sum(), axis=axis, mode="mirror")
    empty = int(np.flatnonzero(kernel.max(0) > 0)[0])
    trimmed: np.ndarray = kernel[empty : len(kernel) - empty, empty : len(kernel) - empty]
    return trimmed


def glass_blur(x: Images, glass: tuple[float, int, int], rngs: Sequence[Rng]) -> Images:
    """A Gaussian, then pixels scattered by up to `reach`, `rounds` times over, then the Gaussian again.

    The published code means to swap two pixels. It copies the one to the other, since it assigns through views; the images of
    CIFAR-10-C and ImageNet-C were made so, and so are these. It goes through the pixels from the last to the first.
    """
    sigma, reach, rounds = glass
    n, channels, height, width = x.shape
    low = torch.floor(255 * smoothed(x, sigma) + 1e-4)
    moves = drawn(rngs, lambda rng: rng.integers(-reach, reach, (rounds, 2, height, width), dtype=np.int8)).long().numpy()
    place = np.arange(height * width).reshape(height, width)
    touched = np.zeros((height, width), dtype=bool)
    touched[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    flat = low.flatten(2)
    for down, right in (moves[:, turn].transpose(1, 0, 2, 3) for turn in range(rounds)):
        source = np.where(touched, place + width * down + right, place).reshape(n, -1)
        flat = flat.gather(2, torch.from_numpy(scattered(source))[:, None].expand(n, channels, -1))
    return smoothed(flat.view_as(x) / 255, sigma)


def motion_blur(x: Images, motion: tuple[int, float], rngs: Sequence[Rng]) -> Images:
    """The camera moves, at an angle of up to 45 degrees."""
    return motion_blurred(x, *motion, _angles(rngs, -45, 45))


def _angles(rngs: Sequence[Rng], least: float, most: float) -> Tensor:
    return drawn(rngs, lambda rng: np.array(rng.uniform(least, most)))


def zoom_blur(x: Images, zoom: tuple[float, float], rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """The camera moves towards the scene: the mean of the image and of its enlargements up to a factor, in steps."""
    n, channels, height, width = x.shape
    pixels = x.reshape(n * channels, height * width).numpy()
    return torch.from_numpy((_zooms(*zoom, height, width) @ pixels.T).T.reshape(x.shape))


@lru_cache(maxsize=16)
def _zooms(end: float, step: float, height: int, width: int) -> sparse.csr_array:
    """The whole of it as one sparse matrix over pixels."""
    factors = np.arange(1, end, step)
    total = sparse.eye_array(height * width, format="csr")
    for factor in factors:
        rows, columns = (sparse.csr_array(zoom_operator(size, factor).numpy()) for size in (height, width))
        total = total + sparse.kron(rows, columns, format="csr")
    return sparse.csr_array(total / (len(factors) + 1))
