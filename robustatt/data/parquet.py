"""Parquet files as on the Hugging Face hub: an image column of encoded images, and a column of labels."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from robustatt.data.encoded import EncodedDataset
from robustatt.data.image_folder import SPLIT_FOLDERS
from robustatt.errors import InputError, NoSuchSplit, did_you_mean, first_line

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


@final
class ParquetImages(EncodedDataset):
    """All rows of a folder of ``*.parquet`` in order of file name; images are read one row group at a time.

    Files named after a split (``test-00000-of-00001.parquet``) belong to it; a file given by
    itself is taken whatever its name. The image column is ``img`` or
    ``image``, bytes or a struct with ``bytes``; the label column is the one declared as class labels,
    otherwise the one of whole numbers with a usual name, or the only one of whole numbers.

    Raises:
        InputError: damaged files, no image or label column, missing or impossible labels; names the file.
    """

    def __init__(self, path: Path, split: str, label_column: str | None, image_size: int | None) -> None:
        self._paths = _split_files(path, split)
        self.name, self.split, self.image_size = str(path), split, image_size
        self._opened = [_open(file) for file in self._paths]
        schema = self._opened[0].schema_arrow
        for file, opened in zip(self._paths, self._opened, strict=True):
            if opened.schema_arrow.names != schema.names:
                raise InputError(f"{file} has other columns than {self._paths[0].name}")
        self._image = _image_column(schema, self._paths[0])
        column, declared = _label_column(schema, self._paths[0], label_column)
        labels, names = _labels(self._opened, self._paths, column, declared)
        self.labels, self.classes = labels, names
        self._groups = [
            (place, group, opened.metadata.row_group(group).num_rows)
            for place, opened in enumerate(self._opened)
            for group in range(opened.num_row_groups)
        ]
        self._starts = np.cumsum([0, *(rows for _, _, rows in self._groups)])
        self._firsts = np.cumsum([0, *(opened.metadata.num_rows for opened in self._opened)])
        self._kept: tuple[int, list[Any]] | None = None
        self._lock = threading.Lock()

    @property
    def files(self) -> Sequence[Path]:
        return self._paths

    def source(self, index: int) -> str:
        file, row = self._locate(index)
        return f"{file.name} row {row}"

    def encoded(self, positions: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        groups = np.searchsorted(self._starts, np.asarray(positions), side="right") - 1
        for position, group in zip(positions, groups.tolist(), strict=True):
            file, row = self._locate(position)
            where = f"{file} row {row}"
            yield where, _content(self._rows(group)[position - int(self._starts[group])], where)

    def _locate(self, index: int) -> tuple[Path, int]:
        """The file that holds an image, and its row there."""
        place = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return self._paths[place], index - int(self._firsts[place])

    def _rows(self, group: int) -> list[Any]:
        with self._lock:
            if self._kept is None or self._kept[0] != group:
                place, number, _ = self._groups[group]
                try:
                    table = self._opened[place].read_row_group(number, columns=[self._image])
                except (pa.ArrowException, OSError) as error:
                    raise InputError(f"{self._paths[place]} is damaged: {first_line(error)}") from error
                self._kept = (group, list(table.column(self._image)))
            return self._kept[1]


def _content(cell: Any, where: str) -> bytes:
    value = cell.as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise InputError(f"{where} holds no image bytes")
    return content



def _split_files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    every = sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for file in every:
        for key, names in SPLIT_FOLDERS.items():
            if file.name.startswith(names) or (file.parent != path and file.parent.name in names):
                by_split.setdefault(key, []).append(file)
    if split in by_split:
        return by_split[split]
    if by_split:
        raise NoSuchSplit(f"{path} has no {split} files, only {', '.join(sorted(by_split))}")
    if split == "train":
        raise NoSuchSplit(f"{path} has no file named train-*.parquet, so there is nothing to train on")
    return every


def _open(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a complete Parquet file: {first_line(error)}") from error
    size = file.stat().st_size
    if opened.metadata.num_rows > size:
        raise InputError(f"{file} is damaged: it says it holds {opened.metadata.num_rows:,} images in {size:,} bytes")
    return opened


def _image_column(schema: pa.Schema, file: Path) -> str:
    name = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if name is None:
        raise InputError(f"{file} has no column img or image; its columns are {', '.join(schema.names)}")
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and "bytes" in {kind.field(place).name for place in range(kind.num_fields)}:
        return name
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return name
    raise InputError(f"{file}: column {name} is {kind}, not encoded images (bytes, or a struct with bytes)")


def _declared(schema: pa.Schema) -> dict[str, list[str]]:
    """Columns that the Hugging Face metadata declares as class labels, with the names of the classes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {
        name: [str(label) for label in feature.get("names", [])]
        for name, feature in found.items()
        if feature.get("_type") == "ClassLabel"
    }


def _label_column(schema: pa.Schema, file: Path, wanted: str | None) -> tuple[str, list[str]]:
    """The label column and the names of the classes, which are empty where nothing declares them."""
    declared = _declared(schema)
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(f"{file} has no column {wanted!r}: {did_you_mean(wanted, schema.names)}")
        return wanted, declared.get(wanted, [])
    whole = [name for name in schema.names if pa.types.is_integer(schema.field(name).type)]
    usual = [name for name in LABEL_COLUMNS if name in whole]
    for choices in (list(declared), usual[:1], whole):
        if len(choices) == 1:
            return choices[0], declared.get(choices[0], [])
    reason = f"several could be: {', '.join(whole)}" if whole else f"columns: {', '.join(schema.names)}"
    raise InputError(f"{file}: no label column found ({reason}); name it with --label-column")


def _labels(
    opened: Sequence[pq.ParquetFile], files: Sequence[Path], column: str, declared: list[str]
) -> tuple[Tensor, tuple[str, ...]]:
    values: list[Any] = []
    for file, part in zip(files, opened, strict=True):
        try:
            cells = part.read(columns=[column]).column(column).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} is damaged: {first_line(error)}") from error
        for row, cell in enumerate(cells):
            _check_label(cell, f"{file} row {row}", column, len(declared))
        values += cells
    if not values:
        raise InputError(f"{files[0]} holds no rows")
    if isinstance(values[0], str):
        names = sorted(set(values))
        places = {name: place for place, name in enumerate(names)}
        return torch.tensor([places[value] for value in values]), tuple(names)
    labels = torch.tensor(values, dtype=torch.int64)
    return labels, tuple(declared) or tuple(str(place) for place in range(int(labels.max()) + 1))


def _check_label(cell: Any, where: str, column: str, classes: int) -> None:
    if cell is None:
        raise InputError(f"{where}: the label in column {column} is missing")
    if isinstance(cell, str):
        return
    if not isinstance(cell, int):
        raise InputError(f"{where}: column {column} holds a {type(cell).__name__}, a whole number is needed")
    if cell < 0 or (classes and cell >= classes):
        limit = f"0 to {classes - 1}" if classes else "0 or more"
        raise InputError(f"{where}: label {cell} in column {column} is out of range ({limit})")
