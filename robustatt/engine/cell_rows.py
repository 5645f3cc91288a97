"""The rows of a Cell as arrays: whether they are the Cell's, and what they say of each example at each radius.

What a sweep's folder is checked by, in `evidence` (all columns) and in `run_outcomes` (those that accuracy needs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.plan import Cell

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NUMBERS = ("index", "label", "clean_pred", "adv_pred")
TEXTS = ("model", "attack", "eps")
OUTCOME_COLUMNS = (*TEXTS, *NUMBERS)
"""What accuracy is computed from."""


@dataclass(frozen=True)
class CellRows:
    """Rows as they are in the file: distinct texts of `TEXTS`, codes into those of eps, and the numbers."""

    texts: Mapping[str, list[str]]
    eps: NDArray[np.int64]
    numbers: Mapping[str, NDArray[np.int64]]

    @staticmethod
    def of_frame(frame: pd.DataFrame) -> CellRows | None:
        """From a frame of records; None if its columns are not those of records."""
        import pandas as pd

        if not set(OUTCOME_COLUMNS) <= set(frame.columns) or any(frame[name].dtype != np.int64 for name in NUMBERS):
            return None
        codes = {name: pd.factorize(frame[name]) for name in TEXTS}
        if any((code < 0).any() for code, _ in codes.values()):  # a text is missing
            return None
        texts = {name: [str(text) for text in found] for name, (_, found) in codes.items()}
        return CellRows(texts, codes["eps"][0].astype(np.int64), {name: frame[name].to_numpy() for name in NUMBERS})

    @staticmethod
    def of_table(table: pa.Table) -> CellRows | None:
        """From a table of `Store.read_columns`; None if its columns are not those of records."""
        if not set(OUTCOME_COLUMNS) <= set(table.column_names) or any(table[name].null_count for name in OUTCOME_COLUMNS):
            return None
        texts: dict[str, list[str]] = {}
        for name in TEXTS:
            column: Any = table[name].combine_chunks()
            if not hasattr(column, "dictionary"):
                return None
            texts[name] = column.dictionary.to_pylist()
            codes = column.indices.to_numpy()
        numbers = {name: table[name].to_numpy() for name in NUMBERS}
        if any(values.dtype != np.int64 for values in numbers.values()):
            return None
        return CellRows(texts, codes.astype(np.int64), numbers)


@dataclass(frozen=True)
class CellGrid:
    """A Cell's examples in the order of their index, radii ascending, the clean one first."""

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    clean_pred: NDArray[np.int64]
    adv_pred: NDArray[np.int64]
    """``(examples, radii)``"""


def grid_of(rows: CellRows | None, cell: Cell, indices_known: bool) -> CellGrid | str:
    """The rows laid out, or why they are not those of the Cell. `indices_known`: positions and indices are the same."""
    if rows is None:
        return "other columns"
    for column, value in (("model", cell.model), ("attack", cell.attack.name)):
        if set(rows.texts[column]) != {value}:
            return f"another {column}"
    ranks = _ranks(tuple(rows.texts["eps"]), cell.radii)
    if ranks is None:
        return "other radii"
    place, radii = np.array(ranks)[rows.eps], len(ranks)
    index, example = _places(rows.numbers["index"], radii)
    count = cell.stop - cell.start
    if index.size != count or place.size != count * radii:
        return "other examples"
    flat = example * radii + place
    if np.bincount(flat, minlength=place.size).max() > 1:
        return "other examples"
    if indices_known and (index[0], index[-1]) != (cell.start, cell.stop - 1):
        return "other examples"
    label, clean_pred, adv_pred = (np.empty(place.size, np.int64) for _ in range(3))
    label[flat], clean_pred[flat], adv_pred[flat] = (rows.numbers[name] for name in ("label", "clean_pred", "adv_pred"))
    grid = CellGrid(index, label[::radii], clean_pred[::radii], adv_pred.reshape(count, radii))
    return "a clean row that is not clean" if (grid.adv_pred[:, 0] != grid.clean_pred).any() else grid


@lru_cache(maxsize=256)
def _ranks(found: tuple[str, ...], radii: tuple[str, ...]) -> tuple[int, ...] | None:
    """For each text the place of its radius among the clean one and `radii`, ascending; None if the radii are others."""
    try:
        values = [parse_radius(text) for text in found]
    except InputError:
        return None
    wanted = sorted({Fraction(0), *map(parse_radius, radii)})
    return tuple(map(wanted.index, values)) if sorted(values) == wanted else None


def _places(index: NDArray[np.int64], radii: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct indices, ascending, and where each row's stands among them; quickly if they repeat for each radius."""
    count = index.size // radii
    first = index[:count]
    if count and index.size == count * radii and (np.diff(first) > 0).all() and (index.reshape(radii, count) == first).all():
        return first, np.tile(np.arange(count), radii)
    distinct, example = np.unique(index, return_inverse=True)
    return distinct, example
