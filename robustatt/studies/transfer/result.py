"""What a transfer measured: accuracies, paired comparisons and the answer for each image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from robustatt.errors import InputError, first_line
from robustatt.results import statistics
from robustatt.results.part import Part
from robustatt.results.statistics import Estimate
from robustatt.results.summary import Provenance
from robustatt.studies.output import read_document

SCHEMA = 1
FILE, PREDICTIONS = "transfer.json", "predictions.parquet"


class Subject(Part):
    """A model: its label, what it was loaded from, the hash of its weights, the side of its images, its features.

    ``side`` is None where images keep their size.
    """

    name: str
    spec: str
    weights: str
    fingerprint: str
    side: int | None
    width: int


class DataSet(Part):
    """A data set: what was answered for and how; ``floor`` is the share of its largest class."""

    name: str
    protocol: str
    n: int
    trained: int
    classes: int
    floor: float
    fingerprint: str


class Score(Part):
    """A model on a data set: images answered right, as a share with its 95 % Wilson interval, and the C of each fold."""

    model: str
    data: str
    n: int
    right: int
    accuracy: float
    ci_low: float
    ci_high: float
    penalties: list[float]


class Comparison(Part):
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


class Average(Part):
    """The mean over data sets of a minus b, with its 95 % interval."""

    a: str
    b: str
    sets: int
    difference: float
    ci_low: float
    ci_high: float


class TransferSettings(Part):
    """What decides the numbers besides models and data: see `robustatt.studies.transfer.request.TransferRequest`."""

    folds: int
    n: int | None = None
    sample: int | None = None
    seed: int = 0
    trained_on: str = ""
    input_size: int | None = None


class Transfer(Part):
    """The whole of transfer.json, and beside it ``predictions``: columns model, data, index, label, prediction, fold."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    version: int = Field(alias="schema")
    settings: TransferSettings
    provenance: Provenance
    models: list[Subject]
    sets: list[DataSet]
    scores: list[Score]
    comparisons: list[Comparison]
    averages: list[Average]
    predictions: pd.DataFrame = Field(default_factory=pd.DataFrame, exclude=True)

    def score(self, model: str, data: str) -> Score:
        """One model on one data set."""
        return next(score for score in self.scores if (score.model, score.data) == (model, data))


def summarise(
    models: Sequence[Subject],
    sets: Sequence[DataSet],
    answers: Sequence[pd.DataFrame],
    penalties: Mapping[tuple[str, str], Sequence[float]],
    settings: TransferSettings,
    provenance: Provenance,
) -> Transfer:
    """Shares, intervals and tests of the answers (frames as ``Transfer.predictions``) of every model on every set."""
    predictions = pd.concat(answers, ignore_index=True)
    right = {(str(m), str(d)): _right(group) for (m, d), group in predictions.groupby(["model", "data"], sort=False)}
    keys = [(model.name, data.name) for data in sets for model in models]
    pairs = [(b.name, a.name) for a, b in itertools.combinations(models, 2)]
    compared = _comparisons(right, [data.name for data in sets], pairs)
    return Transfer(
        schema=SCHEMA,
        settings=settings,
        provenance=provenance,
        models=list(models),
        sets=list(sets),
        scores=[_score(*key, right[key], penalties[key]) for key in keys],
        comparisons=compared,
        averages=[_average(compared, a, b) for a, b in pairs] if len(sets) > 1 else [],
        predictions=predictions,
    )


def _right(answers: pd.DataFrame) -> NDArray[np.bool_]:
    """Which images are answered right, in order of their indices."""
    ordered = answers.sort_values("index")
    return np.asarray(ordered["label"].to_numpy() == ordered["prediction"].to_numpy(), dtype=bool)


def _score(model: str, data: str, right: NDArray[np.bool_], penalties: Sequence[float]) -> Score:
    count, n = int(right.sum()), len(right)
    low, high = statistics.wilson(count, n)
    return Score(
        model=model, data=data, n=n, right=count, accuracy=count / n, ci_low=float(low), ci_high=float(high),
        penalties=list(penalties),
    )  # fmt: skip


def _comparisons(
    right: Mapping[tuple[str, str], NDArray[np.bool_]], sets: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    found = [(data, a, b, statistics.PairedCounts.of(right[a, data], right[b, data])) for data in sets for a, b in pairs]
    p = [float(statistics.mcnemar_exact(counts.only_a, counts.only_b)) for *_, counts in found]
    return [
        Comparison(
            data=data, a=a, b=b, n=counts.n, only_a=counts.only_a, only_b=counts.only_b,
            **_interval(statistics.newcombe_paired(counts)), p=alone, p_holm=float(adjusted),
        )
        for (data, a, b, counts), alone, adjusted in zip(found, p, statistics.holm(p), strict=True)
    ]  # fmt: skip


def _interval(change: Estimate) -> dict[str, float]:
    return {"difference": change.value, "ci_low": change.low, "ci_high": change.high}


def _average(compared: Sequence[Comparison], a: str, b: str) -> Average:
    """The mean of independent estimates; their distances to their limits are added in squares (Zou & Donner 2008)."""
    mine = [entry for entry in compared if (entry.a, entry.b) == (a, b)]
    centre = statistics.mean([entry.difference for entry in mine])
    down = math.hypot(*(entry.difference - entry.ci_low for entry in mine)) / len(mine)
    up = math.hypot(*(entry.ci_high - entry.difference for entry in mine)) / len(mine)
    return Average(a=a, b=b, sets=len(mine), **_interval(Estimate(centre, centre - down, centre + up)))


def read(folder: Path) -> Transfer:
    """The result that ``write`` left in a folder; InputError if it is missing or damaged."""
    found = read_document(Transfer, folder / FILE, "robustatt transfer")
    if found.version != SCHEMA:
        raise InputError(f"{folder / FILE} is of schema {found.version}, {SCHEMA} is needed: run robustatt transfer again")
    try:
        return found.model_copy(update={"predictions": pd.read_parquet(folder / PREDICTIONS)})
    except (OSError, ValueError) as problem:
        raise InputError(f"{folder / PREDICTIONS} cannot be read ({first_line(problem)}): run robustatt transfer again") from None
