"""What a data set is to the rest of the project: images by stable indices, labels, a hash of the content."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from robustatt.data.labels import Labels, class_indices
from robustatt.errors import InputError

Pixels = UInt8[Tensor, "n 3 height width"] | Float[Tensor, "n 3 height width"]
Indices = Sequence[int] | Tensor | range | slice


ROUNDING = 1e-6  # images that leave [0, 1] by less were resized or converted, and are brought back into it


class Dataset(abc.ABC):
    """Labelled RGB images that keep their indices for ever.

    ``image_shape`` is ``(3, height, width)``. ``fingerprint`` is the SHA-256 of images and labels in order:
    equal fingerprints mean equal data.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    labels: Labels

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        """Images ``(n, 3, height, width)``, uint8 for every named source, and labels ``(n,)``, int64.

        Only a data set made from a float tensor by the Python API gives float images in [0, 1].

        Raises:
            IndexError: an index is outside ``0 .. len - 1``.
        """

    def positions(self, indices: Indices) -> Tensor:
        """Any form of indices as an int64 tensor, checked against the size of the set."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        wanted = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices), dtype=torch.int64)
        if wanted.numel() and (int(wanted.min()) < 0 or int(wanted.max()) >= len(self)):
            raise IndexError(f"{self.name} {self.split} has indices 0 to {len(self) - 1}")
        return wanted

    def original(self, indices: Indices) -> Tensor:
        """The index each of these has in the whole data set: the same, unless this is a sample of one."""
        return self.positions(indices)

    def source(self, index: int) -> str | None:
        """The file that an image came from, in the words of its data set (``cat/7.png``); None where there is none."""
        del index
        return None

    def batches(self, size: int) -> Iterator[tuple[Pixels, Labels]]:
        """The whole set in order, ``size`` images at a time."""
        for start in range(0, len(self), size):
            yield self.tensors(range(start, min(start + size, len(self))))


@final
class TensorDataset(Dataset):
    """Images and labels that are in memory already.

    Args:
        images: ``(n, 3, height, width)``, uint8, or floating point in [0, 1], which stays as it is.
        labels: ``(n,)`` whole numbers from 0, or in another form that `robustatt.data.labels.class_indices` takes.
        classes: their names; by default the numbers up to the largest label.

    Raises:
        InputError: wrong shape, type or range.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int],
        classes: Sequence[str] | None = None,
        *,
        name: str = "tensors",
        split: str = "test",
    ) -> None:
        self.images = checked_images(torch.as_tensor(images))
        indices, named = class_indices(labels, classes)
        self.labels = checked_labels(indices, len(self.images), classes)
        classes = named if classes is None else classes
        count = int(self.labels.max()) + 1 if classes is None else len(classes)
        self.classes = tuple(str(place) for place in range(count)) if classes is None else tuple(classes)
        self.name, self.split = name, split
        channels, height, width = self.images.shape[1:]
        self.image_shape = (channels, height, width)
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = content_hash([(self.images, self.labels)])
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        return self.images[wanted], self.labels[wanted]


def checked_images(images: Tensor) -> Tensor:
    """Images ``(n, channels, height, width)`` of an accepted type and range.

    Raises:
        InputError: says which of them is wrong.
    """
    if images.ndim == 4 and 0 in images.shape:
        raise InputError(f"images have shape {tuple(images.shape)}: there is nothing to evaluate")
    if images.ndim != 4:
        raise InputError(f"images have shape {tuple(images.shape)}: must be (n, channels, height, width)")
    if images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        raise InputError(
            f"images have shape {tuple(images.shape)}, channels last: (n, channels, height, width) is needed: "
            "for a tensor images.permute(0, 3, 1, 2), for an array images.transpose(0, 3, 1, 2)"
        )
    images = images.detach()
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(
            f"images are {images.dtype}: uint8, or floating point in [0, 1], is needed, such as images.to(torch.uint8)"
        )
    if not bool(images.isfinite().all()):
        raise InputError("images have pixels that are NaN or infinite")
    low, high = float(images.min()), float(images.max())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return images if low >= 0 and high <= 1 else images.clamp(0, 1)
    if not (low >= 0 and high <= 1):
        hint = " (divide by 255?)" if high > 1 and low >= 0 else " (leave normalising to the model)"
        raise InputError(f"images range from {low:.4g} to {high:.4g}: floating point must be in [0, 1]{hint}")
    return images


def checked_labels(labels: Tensor, count: int, classes: Sequence[str] | None) -> Labels:
    """Labels ``(count,)`` as int64.

    Raises:
        InputError: another number of them, not whole numbers, or out of range.
    """
    if labels.shape != (count,):
        raise InputError(f"labels have shape {tuple(labels.shape)}: ({count},) is needed, one an image")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers, not {labels.dtype}")
    labels = labels.to(torch.int64)
    top = None if classes is None else len(classes)
    bad = (labels < 0) if top is None else (labels < 0) | (labels >= top)
    if bool(bad.any()):
        place = int(bad.nonzero()[0])
        want = "0 or more" if top is None else f"0 to {top - 1}"
        raise InputError(f"label {int(labels[place])} of image {place} is out of range: {want}")
    return labels


def content_hash(parts: Sequence[tuple[Tensor, Tensor]] | Iterator[tuple[Tensor, Tensor]]) -> str:
    """SHA-256 of images and labels in order; how they are cut into parts makes no difference."""
    pixels, labels = hashlib.sha256(), hashlib.sha256()
    shape: tuple[object, ...] = ()
    for images, targets in parts:
        shape = (str(images.dtype), *images.shape[1:])
        pixels.update(images.contiguous().numpy().tobytes())
        labels.update(targets.contiguous().numpy().tobytes())
    return hashlib.sha256(f"{shape}|{pixels.hexdigest()}|{labels.hexdigest()}".encode()).hexdigest()
