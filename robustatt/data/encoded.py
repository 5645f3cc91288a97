"""Encoded images to uint8 RGB of one size, on all cores; data sets whose images are decoded when needed."""

from __future__ import annotations

import abc
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustatt.data.cache import remembered
from robustatt.data.dataset import Dataset, Indices, Pixels
from robustatt.data.images import decode, needs_care, open_picture, resize, upright_size
from robustatt.data.labels import Labels
from robustatt.errors import InputError

CHUNK = 256
DECODING = "decoding 2"  # part of the hash of images that an earlier version decoded to other pixels


@functools.cache
def workers() -> ThreadPoolExecutor:
    """Threads for reading and decoding; Pillow decodes without holding Python's lock."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")


class EncodedDataset(Dataset):
    """Images kept in files as they are and decoded by need: memory does not grow with the size of the set.

    ``image_size`` resizes the shorter side to that many pixels (bilinear) and crops the centre. Without it
    all images must have one size.
    """

    labels: Tensor
    image_size: int | None

    @property
    @abc.abstractmethod
    def files(self) -> Sequence[Path]:
        """The files the set lies in: when one changes, the hash is computed again."""

    @abc.abstractmethod
    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        """For each position where it lies, for error texts, and the encoded image."""

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        if self.image_size is not None:
            return 3, self.image_size, self.image_size
        where, content = next(iter(self.encoded([0])))
        width, height = upright_size(open_picture(content, where), where)
        return 3, height, width

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of encoded images, labels and ``image_size``; each image's header is checked too."""
        labels = hashlib.sha256(self.labels.numpy().tobytes()).hexdigest()
        purpose = f"{type(self).__name__} {self.image_size} {labels} {DECODING}"
        return remembered(purpose, self.files, self._survey)

    def _survey(self) -> str:
        total = hashlib.sha256(f"{self.image_size} {self.image_shape}".encode())
        total.update(self.labels.numpy().tobytes())
        for start in range(0, len(self), CHUNK):
            part = range(start, min(start + CHUNK, len(self)))
            for digest in workers().map(self._checked_hash, self.encoded(part)):
                total.update(digest)
        return total.hexdigest()

    def _checked_hash(self, item: tuple[str, bytes]) -> bytes:
        where, content = item
        picture = open_picture(content, where)
        self._check_size(where, upright_size(picture, where))
        digest = hashlib.sha256(content)
        if needs_care(picture):
            digest.update(DECODING.encode())
        return digest.digest()

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        images = torch.empty((len(wanted), *self.image_shape), dtype=torch.uint8)
        for start in range(0, len(wanted), CHUNK):
            part = self.encoded(wanted[start : start + CHUNK].tolist())
            for place, pixels in enumerate(workers().map(self._decode, part), start):
                images[place] = pixels
        return images, self.labels[wanted]

    def _decode(self, item: tuple[str, bytes]) -> Tensor:
        where, content = item
        image = resize(decode(content, where), self.image_size, where)
        self._check_size(where, image.size)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def _check_size(self, where: str, size: tuple[int, int]) -> None:
        _, height, width = self.image_shape
        if self.image_size is None and size != (width, height):
            raise InputError(
                f"{where} is {size[0]}x{size[1]} and the first image {width}x{height}: give --input-size to bring all to one size"
            )
