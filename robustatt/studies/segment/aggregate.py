"""From one row for each image, method and radius to the numbers that are reported.

Means have Student's t interval (95 %) over images, shares of hits Wilson's. Two methods are compared on the same
images: mean difference with a seeded paired bootstrap interval, p-value by Wilcoxon's signed-rank test (zeros by Pratt,
normal approximation), adjusted by Holm over all comparisons of one table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustatt.eps import CLEAN
from robustatt.results import statistics
from robustatt.results.statistics import Estimate
from robustatt.results.summary import Provenance
from robustatt.studies.segment.floors import FLOOR
from robustatt.studies.segment.measures import WAYS
from robustatt.studies.segment.result import (
    COMPARED,
    HEADLINE,
    PRIOR,
    AttackedMap,
    AttackedPoint,
    LevelMass,
    LevelTrend,
    MapComparison,
    MapName,
    MapScores,
    MaskedData,
    Mean,
    PairedChange,
    PairedTest,
    SegmentModel,
    SegmentSettings,
    SegmentSummary,
    ThresholdCurve,
)

MEANS = (
    *(f"{name}_{way}" for name in ("jaccard", "precision", "recall") for way in WAYS),
    "jaccard_area",
    "average_precision",
    "mass",
)
LOOKING = ("attention", "gate", "activation")  # the kinds of maps that are a level of a network
RESAMPLES = 2000


def mean(values: Any) -> Mean:
    """Of shares, the interval cut to [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    middle, low, high = (float(value) for value in statistics.mean_interval(array.sum(), np.square(array).sum(), array.size))
    if not math.isfinite(low):
        return Mean(mean=middle, low=None, high=None)
    return Mean(mean=middle, low=max(low, 0.0), high=min(high, 1.0))


def hits(values: Any) -> Mean:
    """Of hits and misses, with Wilson's interval; a tie is a part of a hit."""
    array = np.asarray(values, dtype=np.float64)
    low, high = statistics.wilson(array.sum(), array.size)
    return Mean(mean=statistics.mean(array), low=float(low), high=float(high))


def methods(images: pd.DataFrame, thresholds: Mapping[tuple[str, str], float]) -> list[MapScores]:
    """Every map on clean images, in the order measured."""
    return [
        MapScores(
            model=model, method=method, kind=rows["kind"].iloc[0], headline=bool(rows["headline"].iloc[0]), n=len(rows),
            **{name: mean(rows[name]) for name in MEANS}, pointing=hits(rows["pointing"]), threshold=thresholds[model, method],
        )
        for model, method, rows in _by_map(images[images["eps"] == CLEAN])
    ]  # fmt: skip


def _by_map(images: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (model, method), rows in images.groupby(["model", "method"], sort=False):
        yield str(model), str(method), rows


def paired(a: Any, b: Any, seed: int) -> tuple[Estimate, float]:
    """Mean of a - b over the same images with its bootstrap interval, and Wilcoxon's p-value."""
    from scipy.stats import wilcoxon

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = bool(np.all(first == second))
    p = 1.0 if same else float(wilcoxon(first, second, zero_method="pratt", method="approx").pvalue)
    return statistics.paired_bootstrap(first, second, seed), p


def adjusted(tests: Sequence[tuple[Estimate, float]]) -> list[PairedTest]:
    """The paired comparisons of one table, with Holm's p over all of them."""
    return [
        PairedTest(difference=change.value, low=change.low, high=change.high, p=p, p_holm=float(p_holm))
        for (change, p), p_holm in zip(tests, statistics.holm([p for _, p in tests]), strict=True)
    ]


def comparisons(images: pd.DataFrame, seed: int) -> list[MapComparison]:
    """Headline maps against each other, the floors and their own prior, on clean images, by each of ``COMPARED``."""
    compared = images["headline"] | (images["kind"] == PRIOR)
    clean = images[(images["eps"] == CLEAN) & compared].sort_values("index", kind="stable")
    maps = [(MapName(model=model, method=method), rows) for model, method, rows in _by_map(clean)]
    pairs = [(name, a, b) for name in COMPARED for a, b in itertools.combinations(maps, 2) if _worth_comparing(a[0], b[0])]
    tests = adjusted([paired(a[1][name], b[1][name], seed) for name, a, b in pairs])
    return [
        MapComparison(a=a[0], b=b[0], measure=name, **test.as_dict()) for (name, a, b), test in zip(pairs, tests, strict=True)
    ]


def _worth_comparing(a: MapName, b: MapName) -> bool:
    if PRIOR in (a.method, b.method):
        return a.model == b.model
    return not (a.of_floor and b.of_floor)


def attention_mass(images: pd.DataFrame, seed: int) -> list[LevelMass]:
    """For every level the attention on the object.

    The ratio is of the two means, with a seeded bootstrap interval over images: 1 is what looking nowhere in
    particular gives.
    """
    return [
        LevelMass(
            model=model, level=method, n=len(rows), mass=mean(rows["mass"]), object_share=mean(rows["object_share"]),
            ratio=_ratio(rows["mass"], rows["object_share"], seed),
        )
        for model, method, rows in _by_map(_levels(images))
    ]  # fmt: skip


def _levels(images: pd.DataFrame) -> pd.DataFrame:
    return images[(images["eps"] == CLEAN) & images["kind"].isin(LOOKING)]


def _ratio(above: Any, below: Any, seed: int) -> Mean:
    first, second = np.asarray(above, np.float64), np.asarray(below, np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(first), size=(RESAMPLES, len(first)))
    low, high = np.quantile(first[drawn].mean(1) / second[drawn].mean(1), [0.025, 0.975])
    return Mean(mean=float(first.mean() / second.mean()), low=float(low), high=float(high))


def level_trend(images: pd.DataFrame, seed: int) -> list[LevelTrend]:
    """Claim 6: attention on the object at the highest level minus that at the lowest, image by image."""
    ends, tests = list[tuple[str, str, str]](), []
    for model, rows in _levels(images).sort_values("index", kind="stable").groupby("model", sort=False):
        mass = {str(level): part["mass"] for level, part in rows.groupby("method")}
        if len(mass) > 1:
            lower, higher = min(mass), max(mass)
            ends.append((str(model), lower, higher))
            tests.append(paired(mass[higher], mass[lower], seed))
    return [
        LevelTrend(model=model, lower=lower, higher=higher, **test.as_dict())
        for (model, lower, higher), test in zip(ends, adjusted(tests), strict=True)
    ]


def robustness(images: pd.DataFrame, seed: int) -> list[AttackedMap]:
    """Every map of a model over the radii, on the images that were attacked; the clean radius first."""
    seen = images["index"].isin(images.loc[images["eps"] != CLEAN, "index"])
    attacked = images[seen & (images["model"] != FLOOR) & (images["kind"] != PRIOR)]
    found = []
    for model, method, rows in _by_map(attacked):
        by_eps = {eps: part.sort_values("index") for eps, part in rows.groupby("eps", sort=False)}
        points = [_point(str(eps), part, by_eps[CLEAN], seed) for eps, part in by_eps.items()]
        kind, headline = rows["kind"].iloc[0], bool(rows["headline"].iloc[0])
        found.append(AttackedMap(model=model, method=method, kind=kind, headline=headline, points=points))
    return found


def _point(eps: str, rows: pd.DataFrame, clean: pd.DataFrame, seed: int) -> AttackedPoint:
    change, _ = paired(rows[HEADLINE], clean[HEADLINE], seed)
    return AttackedPoint(
        eps=eps, n=len(rows), **{name: mean(rows[name]) for name in (*COMPARED, "mass")},
        pointing=hits(rows["pointing"]), fooling_rate=hits(rows["fooled"]),
        change=PairedChange(difference=change.value, low=change.low, high=change.high),
    )  # fmt: skip


def standing(found: Sequence[MapScores], tests: Sequence[MapComparison]) -> Iterator[str]:
    """What each model's headline map is worth against the best of the floors and against its own prior."""
    floors = [entry for entry in found if entry.of_floor]
    for entry in found:
        if entry.of_floor or not entry.headline:
            continue
        for name, words in COMPARED.items():
            best = max(floors, key=lambda floor: floor.by(name).mean)
            prior = next(it for it in found if (it.model, it.method) == (entry.model, PRIOR))
            verdicts = (
                _verdict(entry, other, name, called, tests)
                for other, called in ((best, f"the best floor ({best.method})"), (prior, "its own mean map"))
            )
            yield f"{entry}, {words} {entry.by(name).mean:.3f}: {'; '.join(verdicts)}"


def _verdict(entry: MapScores, other: MapScores, name: str, called: str, tests: Sequence[MapComparison]) -> str:
    pair = str(entry), str(other)
    test = next(it for it in tests if it.measure == name and (str(it.a), str(it.b)) == pair)
    word = "above" if entry.by(name).mean > other.by(name).mean else "below"
    sure = "" if test.p_holm <= 0.05 else ", no significant difference"
    return f"{word} {called} {other.by(name).mean:.3f} (p {test.p_holm:.2g} after Holm{sure})"


def summarise(
    images: pd.DataFrame, thresholds: Mapping[tuple[str, str], float], curves: Sequence[ThresholdCurve], data: MaskedData,
    settings: SegmentSettings, models: Sequence[SegmentModel], provenance: Provenance,
) -> SegmentSummary:  # fmt: skip
    """Every number of segment.json from the images' rows and the thresholds by model and method."""
    found, tests = methods(images, thresholds), comparisons(images, settings.seed)
    return SegmentSummary(
        schema=1, data=data, settings=settings, models=list(models), methods=found, comparisons=tests,
        threshold_curves=list(curves), attention_mass=attention_mass(images, settings.seed), level_trend=level_trend(images, settings.seed),
        robustness=robustness(images, settings.seed), standing=list(standing(found, tests)), provenance=provenance,
    )  # fmt: skip
