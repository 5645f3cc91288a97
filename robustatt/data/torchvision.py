"""The published sets that torchvision knows how to fetch: CIFAR-10, CIFAR-100, SVHN and STL-10."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustatt.data.dataset import TensorDataset
from robustatt.data.places import default_root
from robustatt.errors import InputError, first_line

SETS: dict[str, tuple[str, int]] = {
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
    "stl10": ("STL10", 10),
}


def vision(name: str, split: str, root: str | Path | None, download: bool) -> TensorDataset:
    """A torchvision set, whole in memory as uint8, in torchvision's order.

    Raises:
        InputError: the files are missing or damaged, or the download failed.
    """
    folder = Path(root) if root is not None else default_root()
    source = _open(name, split, folder, download)
    pixels = np.asarray(source.data)
    labels = np.asarray(source.labels if hasattr(source, "labels") else source.targets, dtype=np.int64)
    images = torch.from_numpy(pixels)
    if pixels.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    count = SETS[name][1]
    classes = list(getattr(source, "classes", [])) or [str(label) for label in range(count)]
    return TensorDataset(images.contiguous(), labels, classes, name=name, split=split)


def _open(name: str, split: str, folder: Path, download: bool) -> Any:
    import torchvision

    kind: Callable[..., Any] = getattr(torchvision.datasets, SETS[name][0])
    which = {"train": split == "train"} if name.startswith("cifar") else {"split": split}
    if download:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet):
            return kind(os.fspath(folder), download=download, **which)
    except Exception as error:
        reason = first_line(error)
        if download:
            raise InputError(f"download of {name} to {folder} failed: {reason}") from error
        raise InputError(
            f"no whole copy of {name} in {folder}: fetch it with --download, "
            f"or point --data-root at the folder that holds torchvision's files, or a folder {name} of Parquet files"
        ) from error
