"""A folder of images, ``path/class/image`` or ``path/split/class/image``, in order of class and file name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import torch

from robustatt.data.encoded import EncodedDataset, workers
from robustatt.errors import InputError, NoSuchSplit

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}
SPLIT_FOLDERS = {"train": ("train", "training"), "test": ("test", "validation", "valid", "val")}


@final
class ImageFolder(EncodedDataset):
    """See the module. A folder without split folders is a test set and nothing else.

    Raises:
        InputError: no class folders, no images, or no such split.
    """

    def __init__(self, path: Path, split: str, image_size: int | None) -> None:
        base = _split_folder(path, split)
        found = [folder for folder in sorted(base.iterdir()) if folder.is_dir() and folder.name[0] != "."]
        if not found:
            raise InputError(f"{base} has no class folders: images must be in {base / 'CLASS' / 'image.png'}")
        images = [_images(folder) for folder in found]
        if not any(images):
            raise InputError(f"{base} holds no images ({', '.join(sorted(ENDINGS))}) in its class folders")
        self._base = base
        self.name, self.split, self.image_size = str(path), split, image_size
        self.classes = tuple(folder.name for folder in found)
        self._files = [file for files in images for file in files]
        self.labels = torch.tensor([label for label, files in enumerate(images) for _ in files])

    @property
    def files(self) -> Sequence[Path]:
        return self._files

    def source(self, index: int) -> str:
        return self._files[index].relative_to(self._base).as_posix()

    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        chosen = [self._files[position] for position in positions]
        return zip(map(str, chosen), workers().map(_read, chosen), strict=True)


def _split_folder(path: Path, split: str) -> Path:
    present = {name: path / name for names in SPLIT_FOLDERS.values() for name in names if (path / name).is_dir()}
    for name in SPLIT_FOLDERS[split]:
        if name in present:
            return present[name]
    if present:
        raise NoSuchSplit(f"{path} has no folder {split!r}, only {', '.join(sorted(present))}")
    if split == "train":
        raise NoSuchSplit(f"{path} has no folder 'train', so there is nothing to train on")
    return path


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.name[0] != "." and file.is_file())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
