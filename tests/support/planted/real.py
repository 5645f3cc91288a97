"""Real data for the bundled networks: digits always, the rest where the development data lies next to the repository."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from paths import SHARED

from robustatt import data
from robustatt.data import Dataset

SIDES = {"cub20": 80}


def place(name: str) -> Path | None:
    """The folder a set is read from; None if none is needed."""
    return None if name == "digits" else SHARED / name


@functools.cache
def dataset(name: str, split: str = "test") -> Dataset:
    """A split, at the size its networks were trained on."""
    if name == "cifar10":
        return data.load(name, split, root=_unpacked())
    return data.load(place(name) or name, split, image_size=SIDES.get(name))


@functools.cache
def _unpacked() -> Path:
    """CIFAR-10 as torchvision reads it, in a folder that goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="robustatt-cifar10-")
    _kept.append(folder)
    subprocess.run([sys.executable, SHARED / "unpack_cifar10.py", folder.name], check=True, capture_output=True)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
