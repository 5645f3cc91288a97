"""Records as arrays: one (example, radius) grid for each model and attack, which every aggregate is computed from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError
from robustatt.results import statistics

DRIFT_COLUMN = re.compile(r"drift_(?P<metric>[a-z]+)_(?P<level>.+)")
SEVERITY = "severity"
"""The column that only records of corruptions have: 0 for the clean image, then 1 to 5 as in `eps`."""
_COLUMNS = ("model", "attack", "eps", "index", "label", "clean_pred", "adv_pred")


@dataclass(frozen=True)
class Outcomes:
    """All rows of one model under one attack as arrays ``(examples, radii)``, radii ascending."""

    model: str
    attack: str
    eps: tuple[str, ...]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    clean_pred: NDArray[np.int64]
    present: NDArray[np.bool_]
    adv_pred: NDArray[np.int64]
    drift: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict)
    """By (metric, level); NaN where it was not measured."""
    broken_by: NDArray[np.object_] | None = None
    """For a chain, the part that broke each example at each radius, empty where none did; None for a single attack."""
    corruption: bool = False
    """Whether the columns are severities of a corruption, each judged by itself."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Classified right under the attack at exactly this radius and right when clean; False where the row is missing.

        Under a corruption, which is no search for a mistake, what was said of the clean image does not matter.
        """
        clean = (self.clean_pred == self.label) | self.corruption
        right: NDArray[np.bool_] = self.present & clean[:, None] & (self.adv_pred == self.label[:, None])
        return right

    @property
    def fooled(self) -> NDArray[np.bool_]:
        """Predicted otherwise than the clean image; False where the row is missing."""
        changed: NDArray[np.bool_] = self.present & (self.adv_pred != self.clean_pred[:, None])
        return changed

    def align(self, other: Outcomes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the examples that both have stand in each, in the order of their index."""
        _, mine, theirs = np.intersect1d(self.index, other.index, assume_unique=True, return_indices=True)
        return mine, theirs

    @property
    def held(self) -> NDArray[np.bool_]:
        """Right at this radius and at every smaller one; a missing row breaks nothing."""
        return statistics.held_up_to(self.correct | ~self.present)


def outcomes_by_curve(records: pd.DataFrame) -> Iterator[Outcomes]:
    """Lay out records (columns of the design) by model and attack; raises InputError on a row twice."""
    missing = [name for name in _COLUMNS if name not in records.columns]
    if missing:
        raise InputError(f"records lack the columns {', '.join(missing)}")
    if records.empty:
        return
    eps_code, eps_text = _eps_codes(records["eps"])
    models, model_names = pd.factorize(records["model"])
    attacks, attack_names = pd.factorize(records["attack"])
    group = models.astype(np.int64) * len(attack_names) + attacks
    columns = {name: records[name].to_numpy() for name in ("index", "label", "clean_pred", "adv_pred")}
    comparable = _comparable(records)
    drift = {
        (match["metric"], match["level"]): np.where(comparable, records[name].to_numpy(np.float32, na_value=np.nan), np.nan)
        for name in records.columns
        if (match := DRIFT_COLUMN.fullmatch(str(name)))
    }
    for code in np.unique(group):
        rows = np.flatnonzero(group == code)
        model = str(model_names[code // len(attack_names)])
        attack = str(attack_names[code % len(attack_names)])
        outcomes = _grid(model, attack, rows, eps_code[rows], eps_text, columns, drift)
        corruption = SEVERITY in records.columns and bool(records[SEVERITY].to_numpy()[rows[0]] >= 0)
        yield replace(outcomes, broken_by=_parts(records, rows, outcomes, eps_code[rows]), corruption=corruption)


def curves_of(records: pd.DataFrame) -> dict[tuple[str, str], Outcomes]:
    """The same by (model, attack)."""
    return {(outcomes.model, outcomes.attack): outcomes for outcomes in outcomes_by_curve(records)}


def _parts(
    records: pd.DataFrame, rows: NDArray[np.int64], outcomes: Outcomes, eps_code: NDArray[np.int64]
) -> NDArray[np.object_] | None:
    """Which part of a chain broke what; None for a single attack, and for records that were written before this column."""
    if "broken_by" not in records.columns:
        return None
    values = records["broken_by"].to_numpy(dtype=object)[rows]
    if not any(isinstance(value, str) and value for value in values):
        return None
    parts = np.full(outcomes.present.shape, "", dtype=object)
    radius = np.unique(eps_code, return_inverse=True)[1]
    parts[np.searchsorted(outcomes.index, records["index"].to_numpy()[rows]), radius] = values
    return parts


def _comparable(records: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows whose drift belongs to their radius: clean ones, and those attacked at exactly that radius.

    The other rows of a threshold search are backed by an image found at another radius, and misclassified images are
    not attacked at all: their drift would be compared with that of a larger perturbation.
    """
    if "attacked" not in records.columns:
        return np.ones(len(records), dtype=bool)
    clean = records["eps"].isin(["0", CLEAN]).to_numpy()
    rows: NDArray[np.bool_] = clean | records["attacked"].to_numpy(dtype=bool)
    return rows


def _eps_codes(column: pd.Series[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Codes of each row's radius into the texts of the distinct radii, ascending."""
    codes, texts = pd.factorize(column)
    values = [parse_radius(text) for text in texts]
    distinct = sorted(set(values))
    rank = np.array([distinct.index(value) for value in values], dtype=np.int64)
    names = {value: str(text) for text, value in zip(texts, values, strict=True)}
    names[Fraction(0)] = CLEAN
    return rank[codes], [names[value] for value in distinct]


def _grid(
    model: str,
    attack: str,
    rows: NDArray[np.int64],
    eps_code: NDArray[np.int64],
    eps_text: list[str],
    columns: Mapping[str, NDArray[Any]],
    drift: Mapping[tuple[str, str], NDArray[np.float32]],
) -> Outcomes:
    used, radius = np.unique(eps_code, return_inverse=True)
    index, example = np.unique(columns["index"][rows], return_inverse=True)
    shape = (index.size, used.size)
    present = np.zeros(shape, dtype=bool)
    present[example, radius] = True
    if int(present.sum()) != rows.size:
        raise InputError(f"records hold an example twice at one radius for {model} under {attack}")
    adv_pred = np.full(shape, -1, dtype=np.int64)
    adv_pred[example, radius] = columns["adv_pred"][rows]
    label, clean_pred = np.empty(index.size, np.int64), np.empty(index.size, np.int64)
    label[example], clean_pred[example] = columns["label"][rows], columns["clean_pred"][rows]
    layers = {}
    for key, values in drift.items():
        here = values[rows]
        if not np.isnan(here).all():
            layer = np.full(shape, np.nan, dtype=np.float32)
            layer[example, radius] = here
            layers[key] = layer
    eps = tuple(eps_text[i] for i in used)
    return Outcomes(model, attack, eps, index.astype(np.int64), label, clean_pred, present, adv_pred, layers)
