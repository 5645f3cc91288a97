"""A folder of ``.npy`` arrays beside ``labels.npy``, the layout of CIFAR-10-C: a file for each corruption, the severities stacked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from robustatt.data.cache import remembered
from robustatt.data.dataset import Dataset, Indices, Pixels, content_hash
from robustatt.data.labels import Labels, class_indices
from robustatt.data.places import CORRUPTION_LABELS, parts_of
from robustatt.errors import InputError, NoSuchSplit, did_you_mean

SEVERITIES = 5
CHUNK = 1024


@final
class CorruptionImages(Dataset):
    """The images of one corruption at one severity, left on disk; ``name`` says both (``DIR:fog:3``).

    Raises:
        InputError: no such corruption or severity, or none was chosen (lists what is there); damaged arrays.
        NoSuchSplit: these are test images.
    """

    def __init__(self, path: str, split: str) -> None:
        folder, corruption, severity = parts_of(path)
        if split != "test":
            raise NoSuchSplit(f"{folder} holds corrupted test images: there is nothing to train on")
        self.corruption, self.severity = corruption, int(severity or 0)
        found = sorted(file.stem for file in folder.glob("*.npy") if file.name != CORRUPTION_LABELS)
        if not found:
            raise InputError(f"{folder} holds {CORRUPTION_LABELS} and no arrays of images beside it, such as gaussian_noise.npy")
        if not corruption:
            raise InputError(
                f"{folder} holds {len(found)} corruptions: choose one and its severity, such as --data "
                f"{folder}:{found[0]}:3. Known: {', '.join(found)}"
            )
        if corruption not in found:
            raise InputError(f"{folder} has no corruption {corruption!r}: {did_you_mean(corruption, found)}")
        self._file = folder / f"{corruption}.npy"
        pixels, every = _opened(self._file), _labels(folder / CORRUPTION_LABELS)
        stacked = _stacked(every, len(pixels), self._file)
        if stacked and not 1 <= self.severity <= SEVERITIES:
            raise InputError(
                f"{self._file} holds severities 1 to {SEVERITIES}: choose one, such as --data {folder}:{corruption}:3"
            )
        if severity and not stacked and self.severity != 1:
            raise InputError(f"{self._file} holds one severity, not five: ask for severity 1, or --data {folder}:{corruption}")
        count = len(pixels) // SEVERITIES if stacked else len(pixels)
        first = count * (self.severity - 1) if stacked else 0
        self._pixels, self.labels = pixels[first : first + count], every[:count]
        self.name, self.split = path, split
        self.classes = tuple(map(str, range(int(self.labels.max()) + 1)))
        self.image_shape = (3, pixels.shape[1], pixels.shape[2])

    @property
    def fingerprint(self) -> str:
        purpose = f"{type(self).__name__} {self.severity} {hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()}"
        return remembered(purpose, [self._file], lambda: content_hash(self.batches(CHUNK)))

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        pixels = np.ascontiguousarray(self._pixels[wanted.numpy()])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), self.labels[wanted]

    def source(self, index: int) -> str:
        severity = f" severity {self.severity}" if self.severity else ""
        return f"{self._file.name}{severity} image {index}"


def _opened(file: Path) -> np.ndarray:
    try:
        pixels: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is not a complete .npy file of a plain array") from error
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        shape = getattr(pixels, "shape", "none")
        raise InputError(f"{file} has shape {shape}: uint8 images (n, height, width, 3) are needed")
    if 0 in pixels.shape:
        raise InputError(f"{file} holds no images: its shape is {pixels.shape}")
    return pixels


def _labels(file: Path) -> Tensor:
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is not a complete .npy file of a plain array") from error
    try:
        labels, _ = class_indices(values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if len(labels) == 0 or int(labels.min()) < 0:
        raise InputError(f"{file}: labels must be 0 or more, and at least one")
    return labels


def _stacked(labels: Tensor, images: int, file: Path) -> bool:
    """Whether a file holds five severities of the same images, one after the other."""
    if images == SEVERITIES * len(labels):
        return True
    if images != len(labels):
        raise InputError(
            f"{file} holds {images} images and {CORRUPTION_LABELS} {len(labels)} labels: as many are needed, or five times"
        )
    rows = labels.reshape(SEVERITIES, -1) if images % SEVERITIES == 0 else labels[None]
    return len(rows) > 1 and images > SEVERITIES and bool((rows == rows[0]).all())
