"""What is done to training images on the way: shifted, mirrored, attacked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from robustatt.data import SOURCES
from robustatt.train.ranks import ALONE, Ranks
from robustatt.train.request import TrainRequest


def augmentation(request: TrainRequest) -> tuple[bool, bool]:
    """Whether to flip and to crop: both by default, but images whose mirror image is of no class are not flipped."""
    source = SOURCES.get(request.data)
    flip = (source is None or source.mirrored) if request.flip is None else request.flip
    return flip, True if request.crop is None else request.crop


def augment(images: Tensor, chosen: Tensor, noise: torch.Generator, *, flip: bool, crop: bool, pad: int = 4) -> Tensor:
    """The chosen images of ``(n, h, w, 3)`` as float ``(batch, 3, h, w)`` in [0, 1], in channels-last memory.

    A crop of a copy padded by reflection is a shift by at most ``pad`` pixels, so one gather does it all.
    The random numbers are drawn on the CPU and so do not depend on the device.
    """
    batch, (height, width) = len(chosen), images.shape[1:3]
    rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    if crop:
        shift = torch.randint(-pad, pad + 1, (2, batch, 1), generator=noise)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        turned = torch.rand(batch, 1, generator=noise) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    device = images.device
    index = (chosen.view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    taken = images[tuple(part.to(device) for part in index)].permute(0, 3, 1, 2)
    return taken.float() / 255 if taken.dtype == torch.uint8 else taken.float()


def _reflect(positions: Tensor, size: int) -> Tensor:
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def adversarial_images(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    method: Literal["fgsm", "pgd"],
    eps: float,
    noise: torch.Generator,
    ranks: Ranks = ALONE,
    batch: int | None = None,
) -> Tensor:
    """Training images inside the L-infinity ball of radius ``eps`` (pixel scale [0, 1]) and inside [0, 1].

    ``fgsm`` is one step of 1.25 eps from a random start (Wong et al. 2020); ``pgd`` is 7 steps of eps/4 from
    a random start (Madry et al. 2018). The network stays in training mode, as in both papers.
    ``x`` may be this process's share of a batch of ``batch`` images.
    """
    batch = batch or len(x)
    steps, size = (1, 1.25 * eps) if method == "fgsm" else (7, eps / 4)
    start = torch.empty((batch, *x.shape[1:]), memory_format=torch.channels_last).uniform_(-eps, eps, generator=noise)
    moved = (x + ranks.share(start).to(x.device)).clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        loss = ranks.mean_loss(network(moved).float(), y, batch)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + size * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    return moved
