"""Images with a binary mask of the object: Parquet files with both columns, or two folders with the same names.

Images may differ in size and need no labels. They are read one after the other, so a set of any size fits in memory.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustatt.data.image_folder import ENDINGS
from robustatt.data.images import decode, upright
from robustatt.data.parquet import ParquetRows, content, image_column, open_parquet
from robustatt.errors import InputError

MASK_COLUMN = "mask"


@dataclass(frozen=True)
class Example:
    """An image, uint8 ``(h, w, 3)``, and its mask, bool ``(h, w)``, true on the object; ``where`` is for error texts."""

    index: int
    where: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


class MaskedImages(abc.ABC):
    """A set of images with masks, read in order."""

    name: str

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[int, str, bytes, str, bytes]]:
        """For ascending positions: the position, and for image and mask where each lies and its encoded bytes."""

    def read(self, positions: Sequence[int]) -> Iterator[Example]:
        """The examples at ascending positions.

        Raises:
            InputError: an image or a mask is damaged, of another size, not binary or empty; names the file.
        """
        for index, image_at, image, mask_at, mask in self.encoded(positions):
            pixels = np.asarray(decode(image, image_at))
            yield Example(index, image_at, pixels, _mask(upright(mask, mask_at), mask_at, pixels.shape[:2]))


def open_masked(data: Path, masks: Path | None = None) -> MaskedImages:
    """The images and masks of a path.

    Args:
        data: a folder of ``*.parquet`` or one such file, with columns ``img`` (or ``image``) and ``mask``; a folder
            of images; or a folder that holds the folders ``images`` and ``masks``.
        masks: the folder of masks, for a folder of images: the same names, whatever the endings.

    Raises:
        InputError: there are none, or some image has no mask.
    """
    if not data.exists():
        raise InputError(f"--data {data}: there is no such folder or file: give images with masks")
    if data.suffix == ".parquet" or any(data.glob("*.parquet")):
        if masks is not None:
            raise InputError(f"--masks {masks}: {data} is Parquet, where masks are the column {MASK_COLUMN!r}")
        return ParquetMasks(data)
    if masks is None and (data / "images").is_dir() and (data / "masks").is_dir():
        data, masks = data / "images", data / "masks"
    if masks is None:
        raise InputError(
            f"{data} holds no masks: give --masks DIR with the same file names, or Parquet files with a column {MASK_COLUMN!r}"
        )
    return FolderMasks(data, masks)


@final
class ParquetMasks(MaskedImages):
    """See ``open_masked``; rows are counted through all files in order of their names."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        paths = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        files = [open_parquet(file) for file in paths]
        columns = [image_column(file.schema_arrow, path) for file, path in zip(files, paths, strict=True)]
        for file, path in zip(files, paths, strict=True):
            names = file.schema_arrow.names
            if MASK_COLUMN not in names:
                raise InputError(
                    f"{path} has no column {MASK_COLUMN!r}, and segment needs masks; its columns are {', '.join(names)}"
                )
            if columns[0] not in names:
                raise InputError(f"{path} has other columns than {paths[0].name}")
        self._rows = ParquetRows(files, paths, [columns[0], MASK_COLUMN])

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[int, str, bytes, str, bytes]]:
        for position, where, (image, mask) in self._rows.cells(positions):
            mask_at = f"{where}, column {MASK_COLUMN}"
            yield position, where, content(image, where), mask_at, content(mask, mask_at)


@final
class FolderMasks(MaskedImages):
    """See ``open_masked``; images in order of their names, in folders of any depth."""

    def __init__(self, images: Path, masks: Path) -> None:
        self.name = str(images)
        for flag, folder in (("--data", images), ("--masks", masks)):
            if not folder.is_dir():
                raise InputError(f"{flag} {folder}: there is no such folder")
        found = _by_stem(masks)
        self._pairs: list[tuple[Path, Path]] = []
        for stem, image in _by_stem(images).items():
            if stem not in found:
                raise InputError(f"{image} has no mask: {masks / stem}.png was expected; add it or take the image out")
            self._pairs.append((image, found[stem]))
        if not self._pairs:
            raise InputError(f"{images} holds no images ({', '.join(sorted(ENDINGS))})")

    def __len__(self) -> int:
        return len(self._pairs)

    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[int, str, bytes, str, bytes]]:
        for position in positions:
            image, mask = self._pairs[position]
            try:
                yield position, str(image), image.read_bytes(), str(mask), mask.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _by_stem(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.name[0] != ".")
    return {str(file.relative_to(folder).with_suffix("")): file for file in files}


def _mask(picture: Image.Image, where: str, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask as bool; anything but 0 and one other value is no binary mask."""
    if picture.size != (size[1], size[0]):
        raise InputError(
            f"{where} is a mask of {picture.size[0]}x{picture.size[1]} pixels and its image has {size[1]}x{size[0]}: "
            "give masks of the size of the images"
        )
    values = np.asarray(picture)
    if values.ndim == 3:
        values = np.asarray(picture.convert("RGB"))
        if (values != values[:, :, :1]).any():
            raise InputError(f"{where} is a coloured mask: give one of black (0) and white (255)")
        values = values[:, :, 0]
    levels = np.unique(values)
    if len(levels[levels != 0]) > 1:
        raise InputError(
            f"{where} is not binary: it holds {len(levels)} grey levels: give 0 off and 255 on the object (PNG, not JPEG)"
        )
    if not values.any():
        raise InputError(f"{where} is an empty mask: no object to find; take the image out")
    on_object: NDArray[np.bool_] = values != 0
    return on_object


@dataclass(frozen=True)
class MaskSurvey:
    """What was seen when all chosen examples were read once: hash, mean share of the object."""

    fingerprint: str
    object_share: float


def survey(source: MaskedImages, positions: Sequence[int]) -> MaskSurvey:
    """Reads every chosen example once, so that what is wrong with the data is said before anything is computed."""
    digest, shares = hashlib.sha256(), 0.0
    for example in source.read(positions):
        digest.update(f"{example.image.shape}".encode())
        digest.update(example.image.tobytes())
        digest.update(np.packbits(example.mask).tobytes())
        shares += float(example.mask.mean())
    return MaskSurvey(digest.hexdigest(), shares / len(positions))


def batches(source: MaskedImages, positions: Sequence[int], size: int) -> Iterator[list[Example]]:
    """The examples in batches of equal image size; at most ``8 * size`` of them wait in memory for company."""
    waiting: dict[tuple[int, ...], list[Example]] = {}
    held = 0
    for example in source.read(positions):
        group = waiting.setdefault(example.mask.shape, [])
        group.append(example)
        held += 1
        full = len(group) == size
        if full or held == 8 * size:
            shape = example.mask.shape if full else max(waiting, key=lambda key: len(waiting[key]))
            batch = waiting.pop(shape)
            held -= len(batch)
            yield batch
    yield from waiting.values()
