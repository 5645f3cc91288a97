"""Common corruptions of images, vectorised, each image with random numbers of its own.

Written from the published constants. Where they differ from the published images: frost is drawn and not photographed,
motion blur and snow follow ImageMagick's formula and not its code, and the random numbers are others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from robustatt.corruptions import blur, digital, noise, weather
from robustatt.corruptions.kinds import constants
from robustatt.corruptions.operators import Rng

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        noise.gaussian_noise, noise.shot_noise, noise.impulse_noise, noise.speckle_noise,
        blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur, blur.gaussian_blur,
        weather.snow, weather.frost, weather.fog, weather.brightness, weather.spatter,
        digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression, digital.saturate,
    )
}  # fmt: skip
ROUNDING = 1e-4
"""Levels below a whole one that still count as it: results are cut to 8 bits, as published, and not their rounding errors."""


def corrupted(images: UInt8[Tensor, "n c h w"], kind: str, severity: int, rngs: Sequence[Rng]) -> UInt8[Tensor, "n c h w"]:
    """Images under one corruption of severity 1 to 5, with the constants published for their size.

    Args:
        images: on the CPU, of three channels, or of one for all kinds but those of `RGB_ONLY`.
        kind: one of `robustatt.corruptions.kinds.KINDS`.
        rngs: a generator for each image: the only source of randomness.

    Raises:
        InputError: spatter without OpenCV.
    """
    height, width = images.shape[2:]
    with torch.no_grad():
        found = _FUNCTIONS[kind](images.double() / 255, constants(kind, severity, height, width), rngs)
        return torch.floor(255 * found.clamp(0, 1) + ROUNDING).to(torch.uint8)
