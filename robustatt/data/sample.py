"""A stratified sample of a data set: fewer images, classes in proportion, each with its own index."""

from __future__ import annotations

import hashlib
from typing import final

import numpy as np
import torch
from torch import Tensor

from robustatt.data.dataset import Dataset, Indices, Labels, Pixels
from robustatt.errors import InputError


@final
class Sample(Dataset):
    """Some images of a data set, by position in the sample; `original` gives their indices in the whole set.

    Args:
        whole: the data set.
        chosen: indices in it, ``(n,)``, ascending.
    """

    def __init__(self, whole: Dataset, chosen: Tensor) -> None:
        self.whole, self.chosen = whole, whole.positions(chosen)
        self.name, self.split, self.classes = whole.name, whole.split, whole.classes
        self.image_shape = whole.image_shape
        self.labels = whole.labels[self.chosen]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's fingerprint and of the indices chosen."""
        return hashlib.sha256(f"{self.whole.fingerprint}|{self.chosen.tolist()}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.chosen)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        return self.whole.tensors(self.original(indices))

    def original(self, indices: Indices) -> Tensor:
        return self.chosen[self.positions(indices)]

    def source(self, index: int) -> str | None:
        return self.whole.source(int(self.chosen[index]))


def stratified(labels: Labels, count: int, seed: int) -> Tensor:
    """Indices ``(count,)``, ascending, of a random sample with each class in its share of the whole.

    Shares are rounded by largest remainder, ties to the lower class. Drawn by numpy's ``RandomState``, whose
    stream never changes between versions.

    Raises:
        InputError: fewer than 1, or more than there are.
    """
    if not 1 <= count <= len(labels):
        raise InputError(f"--sample {count}: the data has {len(labels)} examples: give 1 to {len(labels)}")
    numbers = labels.numpy()
    sizes = np.bincount(numbers)
    exact = sizes * count / len(numbers)
    quota = np.floor(exact).astype(np.int64)
    for label in np.argsort(quota - exact, kind="stable")[: count - int(quota.sum())]:
        quota[label] += 1
    generator = np.random.RandomState(np.array([seed % 2**32, seed // 2**32], dtype=np.uint32))
    drawn = [generator.permutation(np.flatnonzero(numbers == c))[: quota[c]] for c in range(len(sizes))]
    return torch.from_numpy(np.sort(np.concatenate(drawn)))
