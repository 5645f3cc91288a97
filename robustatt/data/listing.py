"""What data there is: sizes, content hashes of what lies on this machine, and how to get the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from robustatt import data as data_sets
from robustatt.data.cache import remembered
from robustatt.data.places import files
from robustatt.errors import InputError

ABSENT = "-"


class DataRow(NamedTuple):
    """One split of a data set, as text. ``fingerprint``: 16 hexadecimal digits, or ``-`` without data."""

    name: str
    split: str
    images: str
    pixels: str
    classes: str
    fingerprint: str
    way: str


def listing(
    names: Sequence[str],
    root: Path | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    channels: int | None = None,
) -> list[DataRow]:
    """A row for each split of these data sets or paths, or of all that go by a name.

    Hashes of downloaded sets are computed once and remembered until a file changes.

    Raises:
        InputError: no such data set, or one of the splits of a path is damaged.
    """
    rows: list[DataRow] = []
    for name in names or data_sets.SOURCES:
        if name in data_sets.SOURCES:
            rows += _named(data_sets.SOURCES[name], root)
        else:
            rows += _at_path(name, label_column, image_size, class_names, channels)
    return rows


def _named(source: data_sets.Source, root: Path | None) -> Iterator[DataRow]:
    for split, count in (("train", source.train), ("test", source.test)):
        found = _fingerprint(source.name, split, root)
        way = (
            "with scikit-learn"
            if source.name == "digits"
            else "with robustatt"
            if not source.downloaded
            else "here"
            if found
            else "--download or --data-root"
        )
        pixels = f"{source.side}x{source.side}"
        shown = found[:16] or ABSENT
        yield DataRow(source.name, split, f"{count:,}", pixels, str(source.classes), shown, way)


def _fingerprint(name: str, split: str, root: Path | None) -> str:
    """The content hash of a named set, or nothing where it is not on this machine."""
    present = files(name, root)
    if not present and not data_sets.SOURCES[name].downloaded:
        return data_sets.load(name, split).fingerprint
    try:
        return (
            remembered(f"{name} {split}", present, lambda: data_sets.load(name, split, root=root).fingerprint) if present else ""
        )
    except InputError:
        return ""


def classes(
    name: str, root: Path | None, label_column: str | None, class_names: Sequence[str] | None
) -> dict[str, list[tuple[str, int]]]:
    """By split the classes of a data set in the order of the labels, each with its number of images."""
    found = {}
    for split in data_sets.SPLITS:
        try:
            dataset = data_sets.load(name, split, root=root, label_column=label_column, class_names=class_names)
        except InputError:
            continue  # said by `listing` where no split can be read
        counts = dataset.labels.bincount(minlength=len(dataset.classes)).tolist()
        found[split] = list(zip(dataset.classes, counts, strict=True))
    return found


def _at_path(
    path: str, label_column: str | None, image_size: int | None, names: Sequence[str] | None, channels: int | None
) -> list[DataRow]:
    """The splits that a path has: usually a test split, and sometimes one to train on."""
    rows, problems = [], []
    for split in data_sets.SPLITS:
        try:
            found = data_sets.load(
                path, split, label_column=label_column, image_size=image_size, class_names=names, channels=channels
            )
        except InputError as problem:
            problems.append(problem)
            continue
        _, height, width = found.image_shape
        classes = str(len(found.classes))
        rows.append(DataRow(path, split, f"{len(found):,}", f"{height}x{width}", classes, found.fingerprint[:16], "here"))
    if not rows:
        raise problems[-1]
    return rows
