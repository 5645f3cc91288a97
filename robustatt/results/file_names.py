"""`examples.csv` beside the records: which file each example of a user's own data came from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.errors import InputError
from robustatt.files import write_atomically

if TYPE_CHECKING:
    from robustatt.data.dataset import Dataset

FILE = "examples.csv"
COLUMNS = ("index", "file", "class")
MAX_NAMES = 20_000
"""Beyond this number the report's page leaves the names out."""


def write_file_names(dataset: Dataset, positions: Sequence[int], folder: Path) -> None:
    """A row for each example, with the index that records have; nothing for data that comes from no files."""
    names = [dataset.source(position) for position in positions]
    if not any(names):
        return
    indices, labels = dataset.original(positions).tolist(), dataset.labels[list(positions)].tolist()
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((index, name or "", dataset.classes[label]) for index, name, label in zip(indices, names, labels, strict=True))
    write_atomically(folder / FILE, text.getvalue().encode())


def read_file_names(folder: Path) -> dict[int, str]:
    """File by index; empty where there are none, or more than a page should carry.

    Raises:
        InputError: the file is not what `write_file_names` wrote.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names = {int(row["index"]): str(row["file"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as problem:
        raise InputError(f"{path} is damaged: run the sweep again, or remove the file") from problem
    return names if len(names) <= MAX_NAMES else {}
