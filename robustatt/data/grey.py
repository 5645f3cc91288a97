"""Grey images with the one channel they have, for networks that take one channel."""

from __future__ import annotations

import hashlib
from typing import final

import torch
from torch import Tensor, nn

from robustatt.data.dataset import Dataset, Indices, Labels, Pixels
from robustatt.errors import InputError


@final
class OneChannel(Dataset):
    """A data set of grey images, ``(n, 1, height, width)``: radii of every norm are those of the one channel.

    Raises:
        InputError: when images are asked for that have colour; names the first.
    """

    def __init__(self, whole: Dataset) -> None:
        self.whole = whole
        self.name, self.split, self.classes, self.labels = whole.name, whole.split, whole.classes, whole.labels
        self.image_shape = (1, *whole.image_shape[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's fingerprint and of the number of channels."""
        return hashlib.sha256(f"{self.whole.fingerprint}|1 channel".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.whole)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        images, labels = self.whole.tensors(wanted)
        coloured = (images != images[:, :1]).flatten(1).any(1)
        if bool(coloured.any()):
            index = int(wanted[int(coloured.nonzero()[0])])
            raise InputError(
                f"{self.source(index) or f'image {index}'} of {self.name} has colour: one channel needs grey images"
            )
        return images[:, :1].contiguous(), labels

    def original(self, indices: Indices) -> Tensor:
        return self.whole.original(indices)

    def source(self, index: int) -> str | None:
        return self.whole.source(index)


def with_channels(dataset: Dataset, channels: int | None) -> Dataset:
    """The data set with 1 or 3 channels; None leaves it. InputError for any other number, or where it has others."""
    if channels not in (None, 1, 3):
        raise InputError(f"--channels {channels}: give 1 for grey images or 3")
    if channels is None or channels == dataset.image_shape[0]:
        return dataset
    if channels == 1 and dataset.image_shape[0] == 3:
        return OneChannel(dataset)
    raise InputError(f"--channels {channels}: {dataset.name} has {dataset.image_shape[0]} channels")


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
        raise InputError(
            "some models take one channel and others do not: evaluate them in two sweeps (--channels 1 and 3)"
        )
    return 1


def as_channels(images: Tensor, channels: int) -> Tensor:
    """Grey images ``(n, 3, h, w)`` as ``(n, 1, h, w)`` where one channel is wanted and nothing is lost by it."""
    if channels == 1 and images.shape[1] == 3 and bool(torch.equal(images, images[:, :1].expand_as(images))):
        return images[:, :1].contiguous()
    return images
