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

from robustatt.data.cache import cache_folder
from robustatt.data.dataset import TensorDataset
from robustatt.errors import InputError, first_line

SETS: dict[str, tuple[str, int]] = {
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
    "stl10": ("STL10", 10),
}


#: where torchvision leaves the files of each set, below the root
PLACES = {
    "cifar10": "cifar-10-batches-py/*",
    "cifar100": "cifar-100-python/*",
    "svhn": "*_32x32.mat",
    "stl10": "stl10_binary/*",
}


def default_root() -> Path:
    """Where downloads go when no ``root`` is given: ``data`` in the cache folder."""
    return cache_folder() / "data"


def files(name: str, root: str | Path | None) -> list[Path]:
    """The files of a set that are there, whether whole or not."""
    folder = Path(root) if root is not None else default_root()
    return sorted(folder.glob(PLACES[name]))


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
