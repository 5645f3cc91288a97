"""Data sets by name or path; all become uint8 RGB images with stable indices and a content hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustatt.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from robustatt.data.dataset import Dataset, TensorDataset

__all__ = ["SOURCES", "Dataset", "Source", "TensorDataset", "load"]

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Source:
    """A data set that goes by a name: its sizes, the side of its images, and what reads it.

    `reader` is "module:function" of ``(name, split, root, download)`` -> `Dataset`; the module is imported when it is used.
    """

    name: str
    about: str
    train: int
    test: int
    side: int
    classes: int
    reader: str = "robustatt.data.torchvision:vision"
    mirrored: bool = True
    """Whether the mirror image of an image is of the same class, so that training may flip it."""

    @property
    def downloaded(self) -> bool:
        """Whether its files have to be fetched; the others are there as soon as the package is."""
        return self.reader.startswith("robustatt.data.torchvision:")


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("digits", "handwritten digits", 1297, 500, 32, 10, "robustatt.data.digits:read", mirrored=False),
        Source("cifar10", "CIFAR-10", 50_000, 10_000, 32, 10),
        Source("cifar100", "CIFAR-100", 50_000, 10_000, 32, 100),
        Source("svhn", "Street View House Numbers", 73_257, 26_032, 32, 10, mirrored=False),
        Source("stl10", "STL-10, the labelled images", 5_000, 8_000, 96, 10),
    )
}


def __getattr__(name: str) -> Any:
    """The classes, imported when they are used, so that the names of data sets are read without torch."""
    if name in ("Dataset", "TensorDataset"):
        return getattr(import_module(f"{__name__}.dataset"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    name_or_path: str | Path,
    split: str = "test",
    *,
    root: str | Path | None = None,
    download: bool = False,
    label_column: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    channels: int | None = None,
) -> Dataset:
    """A data set by name or by path.

    Args:
        name_or_path: a name in ``SOURCES``; a folder ``path/class/image`` or ``path/split/class/image``; a
            folder of ``*.parquet`` files, or one of them; a ``.npz`` file; ``path:corruption:severity`` of a folder
            as CIFAR-10-C has it.
        split: ``train`` or ``test``.
        root: the folder that holds torchvision's files, or for a set ``NAME`` a folder ``NAME`` of Parquet files as on the
            Hugging Face hub (whose order, and with it the index of an image, may differ); by default ``data`` in the cache folder.
        download: fetch them if they are missing.
        label_column: the column of Parquet files that holds the label, where it cannot be told by its type.
        image_size: bring images to this many pixels a side (shorter side, then the centre).
        class_names: the classes in the order of the labels wanted; may hold more than the data has.
        channels: 1 keeps one channel of grey images.

    Raises:
        InputError: no such data set or split, or its files are missing or damaged (names the file).
    """
    if class_names is not None or channels is not None:
        from robustatt.data.views import with_channels, with_class_names

        whole = load(name_or_path, split, root=root, download=download, label_column=label_column, image_size=image_size)
        return with_channels(whole if class_names is None else with_class_names(whole, class_names), channels)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: {did_you_mean(split, SPLITS)}")
    if image_size is not None and not 1 <= image_size <= 4096:
        raise InputError(f"image size {image_size}: 1 to 4096 pixels")
    if str(name_or_path) not in SOURCES:
        return _from_path(Path(name_or_path), split, label_column, image_size)
    if image_size not in (None, SOURCES[str(name_or_path)].side):
        from robustatt.data.views import Resized

        return Resized(load(name_or_path, split, root=root, download=download), image_size)
    source = SOURCES[str(name_or_path)]
    parquet = _as_parquet(source, split, root)
    if parquet is not None:
        return parquet
    module, _, function = source.reader.partition(":")
    dataset: Dataset = getattr(import_module(module), function)(str(name_or_path), split, root, download)
    return dataset


def _as_parquet(source: Source, split: str, root: str | Path | None) -> Dataset | None:
    """A downloaded set from the Parquet files in ``root/NAME``, if they hold it and torchvision's files are not in ``root``."""
    if root is None or not source.downloaded or not any(Path(root, source.name).glob("*.parquet")):
        return None
    from robustatt.data.places import files

    if files(source.name, root):
        return None
    found = _from_path(Path(root, source.name), split, None, None)
    if (len(found), found.image_shape[1:], len(found.classes)) != (
        getattr(source, split),
        (source.side, source.side),
        source.classes,
    ):
        return None
    found.name = source.name
    return found


def _from_path(path: Path, split: str, label_column: str | None, image_size: int | None) -> Dataset:
    from robustatt.data.corruptions import CorruptionImages
    from robustatt.data.places import is_corruption_path

    if is_corruption_path(str(path)):
        from robustatt.data.views import Resized

        corrupted = CorruptionImages(str(path), split)
        return corrupted if image_size is None else Resized(corrupted, image_size)
    if not path.exists():
        raise InputError(f"no data {str(path)!r}, neither a name nor a path: {did_you_mean(str(path), SOURCES)}")
    if path.suffix == ".npz":
        from robustatt.data.npz import npz

        return npz(path, split, image_size)
    if path.suffix == ".parquet" or any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        from robustatt.data.parquet import ParquetImages

        return ParquetImages(path, split, label_column, image_size)
    if path.is_dir():
        from robustatt.data.image_folder import ImageFolder

        return ImageFolder(path, split, image_size)
    raise InputError(f"{path} is not a data set: expected a folder of class folders, Parquet files or a .npz file")
