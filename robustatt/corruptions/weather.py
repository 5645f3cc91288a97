"""Snow, frost, fog, brightness and spatter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustatt.corruptions.operators import (
    Images,
    Rng,
    along_axes,
    cloud_over,
    drawn,
    motion_blurred,
    smoothed,
    zoom_operator,
)
from robustatt.errors import InputError


def fog(x: Images, density: tuple[float, float], rngs: Sequence[Rng]) -> Images:
    """A fractal cloud of a strength and smoothness, and contrast lost to it."""
    strength, decay = density
    brightest = x.flatten(1).amax(1)[:, None, None, None]
    return (x + strength * cloud_over(rngs, x, decay)) * brightest / (brightest + strength)


def snow(x: Images, fall: tuple[float, float, float, float, int, float, float], rngs: Sequence[Rng]) -> Images:
    """Flakes: the upper part of enlarged normal noise, driven by the wind, twice; the scene behind whitened."""
    mean, deviation, zoom, least, radius, sigma, kept = fall
    _, _, height, width = x.shape
    noise = drawn(rngs, lambda rng: rng.normal(mean, deviation, (height, width)))
    flakes = along_axes(noise, zoom_operator(height, zoom), zoom_operator(width, zoom))
    flakes = torch.where(flakes < least, 0.0, flakes.clamp(0, 1))
    flakes = torch.floor(255 * flakes + 1e-4)[:, None] / 255
    wind = drawn(rngs, lambda rng: np.array(rng.uniform(-135, -45)))
    flakes = motion_blurred(flakes, radius, sigma, wind)
    whitened = torch.maximum(x, 1.5 * grey(x) + 0.5)
    return kept * x + (1 - kept) * whitened + flakes + flakes.rot90(2, (2, 3))


def grey(x: Images) -> Images:
    """Luma after ITU-R BT.601, of one channel."""
    if x.shape[1] == 1:
        return x
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)
    return (x * weights[:, None, None]).sum(1, keepdim=True)


PANES = torch.tensor([[78, 149, 166], [201, 205, 214], [201, 205, 214], [138, 153, 166], [112, 123, 135]], dtype=torch.float64)
"""Mean colours of the five photographs of frost that were published, in levels of 255."""
SPREAD = torch.tensor([20.0, 22.0, 22.0, 29.0, 43.0], dtype=torch.float64)
"""Their standard deviations, at a fifth of their size."""
CRYSTALS = 1.3
"""How smooth the drawn frost is (see `fractal`): neighbours differ by two thirds of the standard deviation, as in the photographs."""


def frost(x: Images, cover: tuple[float, float], rngs: Sequence[Rng]) -> Images:
    """Shares of the image and of frost on a pane, added.

    The published images lay parts of five photographs over the scene. Those are not redistributed here: the frost is a fractal
    with the mean colour, spread and fineness of one of them, without its crystals.
    """
    image, share = cover
    pane = drawn(rngs, lambda rng: rng.integers(len(PANES), size=1))[:, 0]
    texture = cloud_over(rngs, x, CRYSTALS)
    flat = texture.flatten(1)
    normal = (texture - flat.mean(1)[:, None, None, None]) / flat.std(1)[:, None, None, None]
    colour = PANES[pane] if x.shape[1] == 3 else grey(PANES[pane][:, :, None, None])[:, :, 0, 0]
    ice = (colour[:, :, None, None] + SPREAD[pane][:, None, None, None] * normal).clamp(0, 255) / 255
    return image * x + share * ice


def brightness(x: Images, more: float, rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """More value in HSV, hue and saturation kept: all channels in proportion, and black to grey."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp_min(1e-12), brighter)


WATER = (175, 238, 238)
MUD = (63, 42, 20)


def spatter(x: Images, drops: tuple[float, float, float, float, float, int], rngs: Sequence[Rng]) -> Images:
    """Drops of water (severities 1 to 3) or mud on the lens.

    Raises:
        InputError: OpenCV, whose edges and distances the water is made of, is not installed.
    """
    mean, deviation, sigma, least, strength, muddy = drops
    height, width = x.shape[2:]
    liquid = smoothed(drawn(rngs, lambda rng: rng.normal(mean, deviation, (height, width))), sigma)
    liquid = torch.where(liquid < least, 0.0, liquid)
    if muddy:
        cover = smoothed((liquid > least).double(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)[:, None]
        return x * (1 - cover) + cover * _colour(MUD)
    shine = torch.from_numpy(np.stack([_shine(one) for one in (255 * liquid).numpy().astype(np.uint8)]))
    shine = shine / shine.flatten(1).amax(1).clamp_min(1e-12)[:, None, None]
    return x + strength * shine[:, None] * _colour(WATER)


def _colour(levels: tuple[int, int, int]) -> Tensor:
    return torch.tensor(levels, dtype=torch.float64)[:, None, None] / 255


def _shine(liquid: np.ndarray) -> np.ndarray:
    """How drops reflect: by their height and the distance from their edges, lit from one side."""
    try:
        import cv2
    except ImportError:
        raise InputError("spatter needs OpenCV: pip install 'robustatt[corruptions]', or leave it out") from None
    far = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(far, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    product: np.ndarray = liquid * cv2.blur(lit, (3, 3)).astype(np.float64)
    return product
