"""Images and labels in a NumPy ``.npz`` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustatt.data.dataset import TensorDataset
from robustatt.data.encoded import workers
from robustatt.data.images import resize
from robustatt.errors import InputError, NoSuchSplit
from robustatt.files import UNREADABLE_ZIP

IMAGES = ("images", "x", "data")
LABELS = ("labels", "label", "y", "targets")


def npz(path: Path, split: str, image_size: int | None) -> TensorDataset:
    """The arrays ``images`` (or ``x``, ``data``) and ``labels`` (or ``y``), with ``_train`` or ``_test``.

    Images are uint8, ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)`` with 1 or 3 channels.

    Raises:
        InputError: no such arrays, or of another shape or type; names the file.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            pixels, labels = _pick(path, file, IMAGES, split), _pick(path, file, LABELS, split)
    except InputError:
        raise
    except UNREADABLE_ZIP as error:
        raise InputError(f"{path} is not a complete .npz file of plain arrays") from error
    images = _rgb(path, pixels)
    if image_size is not None:
        images = np.stack(list(workers().map(lambda image: _resized(image, image_size), images)))
    tensor = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()
    try:
        return TensorDataset(tensor, labels, name=str(path), split=split)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _pick(path: Path, file: np.lib.npyio.NpzFile, names: tuple[str, ...], split: str) -> np.ndarray:
    for name in names:
        for key in (f"{name}_{split}", f"{split}_{name}"):
            if key in file:
                return np.asarray(file[key])
    for name in names:
        if name in file and split == "test":
            return np.asarray(file[name])
    raise NoSuchSplit(f"{path} has no array {names[0]} for {split}; it has {', '.join(file.files) or 'none'}")


def _rgb(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Images ``(n, h, w, 3)``."""
    if pixels.dtype != np.uint8:
        raise InputError(
            f"{path}: images are {pixels.dtype}, uint8 is needed: for images in [0, 1], (images * 255).round().astype('uint8')"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        raise InputError(f"{path}: images have shape {pixels.shape}; (n, height, width, 3) is needed")
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    return np.array(resize(Image.fromarray(np.ascontiguousarray(image)), side, "an image"))
