"""Grey images with the one channel they have, for networks that take one channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustatt.data.dataset import Dataset
from robustatt.errors import InputError


def looks_grey(dataset: Dataset, images: int = 16) -> bool:
    """Whether the first images have three equal channels."""
    if dataset.image_shape[0] != 3 or len(dataset) == 0:
        return False
    pixels = dataset.tensors(range(min(images, len(dataset))))[0]
    return bool((pixels == pixels[:, :1]).all())


def channels_taken(module: nn.Module) -> int | None:
    """The channels that a network's first convolution takes; None where it has none."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return None if first is None else int(first.in_channels)


def matching(dataset: Dataset, modules: list[nn.Module]) -> int | None:
    """1 where the data is grey and every network takes one channel; None where the data is to stay as it is.

    Raises:
        InputError: some take one channel and some do not.
    """
    taken = [channels_taken(module) for module in modules]
    if 1 not in taken or not looks_grey(dataset):
        return None
    if any(number != 1 for number in taken):
        raise InputError("some models take one channel and others do not: evaluate them in two sweeps (--channels 1 and 3)")
    return 1


def as_channels(images: Tensor, channels: int) -> Tensor:
    """Grey images ``(n, 3, h, w)`` as ``(n, 1, h, w)`` where one channel is wanted and nothing is lost by it."""
    if channels == 1 and images.shape[1] == 3 and bool(torch.equal(images, images[:, :1].expand_as(images))):
        return images[:, :1].contiguous()
    return images
