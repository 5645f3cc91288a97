"""The handwritten digits that come inside scikit-learn: 1,797 real scans of 8x8 pixels, no download."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from robustatt.data.dataset import TensorDataset
from robustatt.data.places import digits_file

TEST = 500


def read(name: str, split: str, root: str | Path | None, download: bool) -> TensorDataset:  # noqa: ARG001
    """The digits, as the reader of a named set."""
    return digits(split)


@functools.cache
def digits(split: str) -> TensorDataset:
    """The digits, 8x8 grey scaled bilinearly to 32x32 (corners not aligned), rounded to uint8, grey as RGB.

    The split is fixed: 1,297 ``train`` and 500 ``test`` images, 50 a class in ``test``. Within each class the
    images are permuted by numpy's ``RandomState(0)``, whose stream never changes between versions, in the
    order of the classes; the first 50 are ``test``. Indices count the images of a split in scikit-learn's
    order.
    """
    table = np.loadtxt(digits_file(), delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    generator = np.random.RandomState(0)
    per_class = TEST // 10
    test = np.concatenate([generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(10)])
    is_test = np.isin(np.arange(len(labels)), test)
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    grey = torch.from_numpy(images[chosen]).double().unsqueeze(1) / 16.0
    large = interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    pixels = (large * 255).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return TensorDataset(pixels, labels[chosen], [str(c) for c in range(10)], name="digits", split=split)
