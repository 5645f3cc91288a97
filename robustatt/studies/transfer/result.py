"""What a transfer measured: accuracies, paired comparisons and the answer for each image."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustatt.errors import InputError, first_line
from robustatt.results import statistics

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
FILE, PREDICTIONS = "transfer.json", "predictions.parquet"


@dataclass(frozen=True)
class Subject:
    """A model: its label, what it was loaded from, the hash of its weights, the side of its images, its features.

    ``side`` is None where images keep their size.
    """

    name: str
    spec: str
    weights: str
    fingerprint: str
    side: int | None
    width: int


@dataclass(frozen=True)
class DataSet:
    """A data set: what was answered for and how; ``floor`` is the share of its largest class."""

    name: str
    protocol: str
    n: int
    trained: int
    classes: int
    floor: float
    fingerprint: str


@dataclass(frozen=True)
class Score:
    """A model on a data set: images answered right, as a share with its 95 % Wilson interval, and the C of each fold."""

    model: str
    data: str
    n: int
    right: int
    accuracy: float
    ci_low: float
    ci_high: float
    penalties: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Model a minus model b on the same images: Newcombe's interval, exact McNemar, Holm over all of the run."""

    data: str
    a: str
    b: str
    n: int
    only_a: int
    only_b: int
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Average:
    """The mean over data sets of a minus b, with its 95 % interval."""

    a: str
    b: str
    sets: int
    difference: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Transfer:
    """All of a run. ``predictions``: columns model, data, index, label, prediction, fold."""

    models: tuple[Subject, ...]
    sets: tuple[DataSet, ...]
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    averages: tuple[Average, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    predictions: pd.DataFrame

    def score(self, model: str, data: str) -> Score:
        """One model on one data set."""
        return next(score for score in self.scores if (score.model, score.data) == (model, data))

    def document(self) -> dict[str, Any]:
        """What transfer.json holds."""
        parts = {key: [asdict(entry) for entry in getattr(self, key)] for key in _PARTS}
        return {"schema": SCHEMA, "settings": self.settings, "provenance": self.provenance, **parts}


_PARTS: dict[str, type] = {
    "models": Subject, "sets": DataSet, "scores": Score, "comparisons": Comparison, "averages": Average,
}  # fmt: skip


def summarise(
    models: Sequence[Subject],
    sets: Sequence[DataSet],
    answers: Sequence[pd.DataFrame],
    penalties: dict[tuple[str, str], tuple[float, ...]],
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> Transfer:
    """Shares, intervals and tests of the answers (frames as ``Transfer.predictions``) of every model on every set."""
    import pandas as pd

    predictions = pd.concat(answers, ignore_index=True)
    right = {key: _right(group) for key, group in predictions.groupby(["model", "data"], sort=False)}
    scores = [
        _score(model.name, data.name, right[model.name, data.name], penalties[model.name, data.name])
        for data in sets
        for model in models
    ]
    pairs = [(b.name, a.name) for a, b in itertools.combinations(models, 2)]
    comparisons = _comparisons(right, [data.name for data in sets], pairs)
    averages = tuple(_average(comparisons, a, b) for a, b in pairs) if len(sets) > 1 else ()
    return Transfer(
        tuple(models), tuple(sets), tuple(scores), comparisons, averages, settings, provenance, predictions
    )  # fmt: skip


def _right(answers: pd.DataFrame) -> NDArray[np.bool_]:
    """Which images are answered right, in order of their indices."""
    ordered = answers.sort_values("index")
    return np.asarray(ordered["label"].to_numpy() == ordered["prediction"].to_numpy(), dtype=bool)


def _score(model: str, data: str, right: NDArray[np.bool_], penalties: tuple[float, ...]) -> Score:
    count = int(right.sum())
    low, high = statistics.wilson(count, len(right))
    return Score(model, data, len(right), count, count / len(right), float(low), float(high), penalties)


def _comparisons(
    right: dict[Any, NDArray[np.bool_]], sets: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[Comparison, ...]:
    found = [(data, a, b, statistics.PairedCounts.of(right[a, data], right[b, data])) for data in sets for a, b in pairs]
    p = [float(statistics.mcnemar_exact(counts.only_a, counts.only_b)) for *_, counts in found]
    return tuple(
        Comparison(
            data, a, b, counts.n, counts.only_a, counts.only_b, *statistics.newcombe_paired(counts), alone, float(adjusted)
        )
        for (data, a, b, counts), alone, adjusted in zip(found, p, statistics.holm(p), strict=True)
    )  # fmt: skip


def _average(comparisons: Sequence[Comparison], a: str, b: str) -> Average:
    """The mean of independent estimates; their distances to their limits are added in squares (Zou & Donner 2008)."""
    mine = [entry for entry in comparisons if (entry.a, entry.b) == (a, b)]
    centre = statistics.mean([entry.difference for entry in mine])
    down = math.hypot(*(entry.difference - entry.ci_low for entry in mine)) / len(mine)
    up = math.hypot(*(entry.ci_high - entry.difference for entry in mine)) / len(mine)
    return Average(a, b, len(mine), centre, centre - down, centre + up)


def read(folder: Path) -> Transfer:
    """The result that ``write`` left in a folder; InputError if it is missing or damaged."""
    import pandas as pd

    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise InputError(
                f"{path} is of schema {document['schema']}, {SCHEMA} is needed: run robustatt transfer again"
            )
        parts = {key: tuple(_entry(kind, entry) for entry in document[key]) for key, kind in _PARTS.items()}
        predictions = pd.read_parquet(folder / PREDICTIONS)
        return Transfer(
            **parts, settings=document["settings"], provenance=document["provenance"], predictions=predictions
        )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        reason = first_line(problem)
        raise InputError(f"{path} cannot be read ({reason}): run robustatt transfer again") from None


def _entry(kind: type, fields: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
