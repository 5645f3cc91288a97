"""Contrast, elastic transformation, pixelation, JPEG compression and saturation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from robustatt.corruptions.operators import Images, Rng, drawn, smoothed


def contrast(x: Images, kept: float, rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """This share of the distance of each channel from its mean."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * kept + mean


def saturate(x: Images, change: tuple[float, float], rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """Saturation in HSV times one number plus another, hue and value kept; grey has the hue of red."""
    factor, more = change
    value = x.amax(1, keepdim=True)
    saturation = (value - x.amin(1, keepdim=True)) / value.clamp_min(1e-12)
    wanted = (factor * saturation + more).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype)[:, None, None]
    away = torch.where(saturation > 0, (value - x) / saturation.clamp_min(1e-12), red * value)
    return value - away * wanted


def jpeg_compression(x: Images, quality: int, rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """Written as JPEG of a quality and read again."""

    def compressed(picture: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return _pictures(x, compressed)


def pixelate(x: Images, share: float, rngs: Sequence[Rng]) -> Images:  # noqa: ARG001
    """Made smaller to this share of its size and large again, by the mean over boxes."""

    def coarse(picture: Image.Image) -> Image.Image:
        small = (max(1, int(picture.width * share)), max(1, int(picture.height * share)))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _pictures(x, coarse)


def _pictures(x: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    """Each image through Pillow."""
    levels = torch.round(255 * x).to(torch.uint8).movedim(1, 3).contiguous().numpy()
    grey = levels.shape[3] == 1
    changed = np.stack([np.asarray(change(Image.fromarray(one[:, :, 0] if grey else one))) for one in levels])
    return torch.from_numpy(changed[..., None] if grey else changed).movedim(3, 1).double() / 255


def elastic_transform(x: Images, bend: tuple[float, float, float], rngs: Sequence[Rng]) -> Images:
    """An affine map whose three anchors move, then a smooth random displacement of each pixel (Simard et al. 2003)."""
    strength, smoothness, corner = bend
    _, _, height, width = x.shape
    anchors = drawn(rngs, lambda rng: rng.uniform(-corner, corner, (3, 2)))
    shifts = [drawn(rngs, lambda rng: rng.uniform(-1, 1, (height, width))) for _ in range(2)]
    right, down = (strength * smoothed(shift, smoothness, mode="reflect", truncate=3.0) for shift in shifts)
    y, across = torch.meshgrid(torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij")
    back = _inverse_affine(anchors, height, width)
    points = torch.stack([across, y, torch.ones_like(y)], -1).reshape(1, -1, 3) @ back
    moved = _sampled(x, points[..., 0].view(-1, height, width), points[..., 1].view(-1, height, width), mirrored=True)
    return _sampled(moved, across + right, y + down, mirrored=False)


def _inverse_affine(anchors: Tensor, height: int, width: int) -> Tensor:
    """The maps from where pixels go to where they come from, (n, 3, 2), for three anchors that move by (x, y)."""
    first, second = height // 2, width // 2
    size = min(height, width) // 3
    corners = [[first + size, second + size], [first + size, second - size], [first - size, second - size]]
    before = torch.tensor(corners, dtype=torch.float64)
    after = torch.cat([before + anchors, torch.ones(len(anchors), 3, 1, dtype=torch.float64)], 2)
    found: Tensor = torch.linalg.solve(after, before.expand(len(anchors), 3, 2))
    return found


def _sampled(x: Images, across: Tensor, down: Tensor, *, mirrored: bool) -> Images:
    """Pixels at places between pixels, linearly; beyond the border mirrored about its pixels, or about its edge."""
    height, width = x.shape[2:]
    if mirrored:
        grid = torch.stack([2 * across / (width - 1) - 1, 2 * down / (height - 1) - 1], -1)
    else:
        grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], -1)
    found: Tensor = grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=mirrored)
    return found
