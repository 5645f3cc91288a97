"""A data set brought to another image size: what a network made for smaller or larger images is given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robustatt.data import load
from robustatt.data.dataset import Dataset, Indices, Labels, Pixels


@final
class Resized(Dataset):
    """A data set of square images at ``side`` pixels, bilinear and antialiased, rounded to uint8 again."""

    def __init__(self, whole: Dataset, side: int) -> None:
        self.whole, self.side = whole, side
        self.name, self.split, self.classes, self.labels = whole.name, whole.split, whole.classes, whole.labels
        self.image_shape = (whole.image_shape[0], side, side)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's fingerprint and of the size."""
        return hashlib.sha256(f"{self.whole.fingerprint}|{self.side}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.whole)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        images, labels = self.whole.tensors(indices)
        return scaled(images, self.side), labels

    def original(self, indices: Indices) -> Tensor:
        return self.whole.original(indices)

    def source(self, index: int) -> str | None:
        return self.whole.source(index)


def scaled(images: Tensor, side: int) -> Tensor:
    """Square images ``(n, c, h, h)`` at ``side`` pixels; uint8 stays uint8."""
    if len(images) == 0:
        return images.new_empty((0, images.shape[1], side, side))
    moved = interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else moved


def load_at(
    name_or_path: str | Path,
    split: str,
    side: int | None,
    *,
    root: str | Path | None = None,
    download: bool = False,
    label_column: str | None = None,
) -> Dataset:
    """``robustatt.data.load`` with images of ``side`` pixels, whatever size the data has; None leaves them.

    Raises:
        InputError: see ``robustatt.data.load``.
        NoSuchSplit: the data has no such part.
    """
    return load(name_or_path, split, root=root, download=download, label_column=label_column, image_size=side)
