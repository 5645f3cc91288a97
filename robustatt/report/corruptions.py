"""Common corruptions: accuracy and drift by corruption and severity, on the page, as a figure and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.corruptions.kinds import BENCHMARK
from robustatt.eps import CLEAN
from robustatt.report.draw import save, theme, write_csv
from robustatt.report.style import shades
from robustatt.report.text import Figure as Number
from robustatt.report.text import Tile, percent, signed
from robustatt.results.columns import DRIFT_METRICS, kind_of, level_title, shown_levels
from robustatt.results.corruptions import corruption_curves, severities_of
from robustatt.results.summary import CorruptionMean, DriftRow, Point, Summary

METRIC = "js"
DRAWN_FROST = (
    "Frost is drawn here, as a texture with the colours and contrast of the published photographs of frost: its numbers are not comparable "
    "with those of the published images."
)


@dataclass(frozen=True)
class CorruptionTable:
    """One model under corruptions: points and shades ``(corruption, severity)``, a shade being the share of images that are wrong."""

    model: str
    corruptions: list[str]
    severities: list[str]
    points: list[list[Point | None]]
    clean: Point | None

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """NaN where a severity was not run."""
        return np.array([[np.nan if point is None else point.accuracy for point in row] for row in self.points])

    @property
    def shades(self) -> NDArray[np.int64]:
        """By the share of wrong images, on one scale for all models."""
        return shades(1 - self.accuracy, 1.0)

    @property
    def means(self) -> list[float]:
        """Over the severities of each corruption."""
        return [float(value) for value in np.nanmean(self.accuracy, axis=1)]


@dataclass(frozen=True)
class CorruptionDrift:
    """Mean drift of one model's maps at one severity, ``(corruption, level)``; of attention or of saliency."""

    model: str
    kind: str
    severity: str
    corruptions: list[str]
    levels: list[str]
    drift: NDArray[np.float64]
    shades: NDArray[np.int64]


def corruption_tables(summary: Summary) -> list[CorruptionTable]:
    """A table of each model that was run under corruptions."""
    tables = []
    for model in dict.fromkeys(curve.model for curve in summary.curves):
        curves = corruption_curves(summary, model)
        severities = severities_of(curves)
        by_severity = [{point.eps: point for point in curve.points} for curve in curves]
        points = [[found.get(severity) for severity in severities] for found in by_severity]
        if curves and severities:
            tables.append(
                CorruptionTable(model, [curve.attack for curve in curves], severities, points, by_severity[0].get(CLEAN))
            )
    return tables


def corruption_drift(summary: Summary) -> list[CorruptionDrift]:
    """The drift of each model's maps at the largest severity that was run, attention before saliency."""
    tables = []
    for kind in ("attention", "saliency"):
        rows = [row for row in _drift_rows(summary) if kind_of(row.level) == kind]
        top = max((row.mean or 0.0 for row in rows), default=0.0)
        for table in corruption_tables(summary):
            severity = table.severities[-1]
            mine = {(row.attack, row.level): row for row in rows if row.model == table.model and row.eps == severity}
            levels = shown_levels(list(dict.fromkeys(level for _, level in mine)))
            drift = np.array([[_mean(mine.get((name, level))) for level in levels] for name in table.corruptions])
            if levels:
                titles = [level_title(level) for level in levels]
                tables.append(CorruptionDrift(table.model, kind, severity, table.corruptions, titles, drift, shades(drift, top)))
    return tables


def _drift_rows(summary: Summary) -> list[DriftRow]:
    names = {name for table in corruption_tables(summary) for name in table.corruptions}
    return [row for row in summary.drift if row.attack in names and row.metric == METRIC and row.group == "all"]


def _mean(row: DriftRow | None) -> float:
    return np.nan if row is None or row.mean is None else row.mean


def context(summary: Summary) -> dict[str, object]:
    """What the page is given; nothing if no corruption was run."""
    tables = corruption_tables(summary)
    if not tables:
        return {}
    drawn = [entry.recipe for entry in summary.plan.attacks if getattr(entry.recipe, "kind", "") == "frost"]
    names = {name for table in tables for name in table.corruptions}
    return {
        "corruptions": {
            "tables": tables,
            "means": summary.corruption_means,
            "of": len(BENCHMARK),
            "drift": corruption_drift(summary),
            "metric": DRIFT_METRICS[METRIC],
            "frost": DRAWN_FROST if any(getattr(recipe, "images", None) is None for recipe in drawn) else "",
            "published": any(getattr(entry.recipe, "images", None) for entry in summary.plan.attacks if entry.name in names),
            "clean": {table.model: table.clean for table in tables},
        }
    }


def tiles(summary: Summary) -> list[Tile]:
    """The headline's boxes of corruptions: clean accuracy, mean corruption accuracy, and the comparison with a baseline."""
    means = summary.corruption_means
    clean = [
        Number(table.model, percent(table.clean.accuracy), f"{percent(table.clean.ci_low)} to {percent(table.clean.ci_high)}")
        for table in corruption_tables(summary) if table.clean is not None
    ]  # fmt: skip
    mean = [Number(row.model, percent(row.accuracy), f"{percent(row.ci_low)} to {percent(row.ci_high)}") for row in means]
    gaps = [
        Number(f"{row.model} minus {row.baseline}", f"{signed(100 * row.difference)} points", f"{_points(row.difference_low)} to {_points(row.difference_high)}")
        for row in means if row.difference is not None
    ]  # fmt: skip
    boxes = [
        Tile("Clean accuracy", "no corruption", tuple(clean)),
        Tile("Mean corruption accuracy", _what(means), tuple(mean)),
        Tile("Gap of the means", "same images", tuple(gaps)),
    ]
    return [box for box in boxes if box.figures]


def _points(value: float | None) -> str:
    return "" if value is None else signed(100 * value)


def _what(means: Sequence[CorruptionMean]) -> str:
    return f"over {len(means[0].corruptions)} of the {len(BENCHMARK)} corruptions" if means else ""


def facts(summary: Summary) -> str:
    """What was run, in a few words."""
    tables = corruption_tables(summary)
    n = max(point.n for table in tables for row in table.points for point in row if point is not None)
    kinds = len({name for table in tables for name in table.corruptions})
    severities = sorted({severity for table in tables for severity in table.severities})
    split = f" ({summary.plan.data.split})" if summary.plan.data.split else ""
    return f"{n:,} images{split} · {kinds} common corruption{'s' if kinds > 1 else ''} · severit{'ies' if len(severities) > 1 else 'y'} {', '.join(severities)}"


def write_corruptions(summary: Summary, folder: Path) -> list[Path]:
    """Write ``corruptions.png``, ``.svg`` and ``.csv`` (every point) and ``corruption-drift.csv``; nothing if none was run."""
    tables = corruption_tables(summary)
    if not tables:
        return []
    paths = _draw(tables, folder / "corruptions")
    points = [
        {"model": table.model, "corruption": name, "severity": severity, **(point.as_dict() if point else {})}
        for table in tables for name, row in zip(table.corruptions, table.points, strict=True)
        for severity, point in zip(table.severities, row, strict=True)
    ]  # fmt: skip
    keep = ["model", "corruption", "severity", "n", "accuracy", "ci_low", "ci_high", "fooling_rate"]
    write_csv(pd.DataFrame(points)[keep], folder / "corruptions.csv")
    paths.append(folder / "corruptions.csv")
    drift = [row.as_dict() for row in _drift_rows(summary)]
    if drift:
        columns = {"attack": "corruption", "eps": "severity"}
        write_csv(pd.DataFrame(drift).rename(columns=columns).drop(columns="group"), folder / "corruption-drift.csv")
        paths.append(folder / "corruption-drift.csv")
    return paths


def _draw(tables: Sequence[CorruptionTable], stem: Path) -> list[Path]:
    import seaborn
    from matplotlib.figure import Figure

    longest = max(len(table.corruptions) for table in tables)
    margin, panel = 1.35, 0.5 + 0.42 * max(len(table.severities) for table in tables)
    wide, tall = margin + (panel + 0.2) * len(tables), 0.85 + 0.24 * longest
    with theme(**{"axes.grid": False}):
        figure = Figure(figsize=(wide, tall))
        figure.subplots_adjust(left=margin / wide, right=1 - 0.1 / wide, bottom=0.45 / tall, top=1 - 0.35 / tall, wspace=0.12)
        for place, (axis, table) in enumerate(zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True)):
            accuracy = table.accuracy
            texts = np.where(np.isnan(accuracy), "", np.char.mod("%.0f", 100 * np.nan_to_num(accuracy)))
            seaborn.heatmap(
                1 - accuracy, ax=axis, cmap="Blues", vmin=0, vmax=1, cbar=False, annot=texts, fmt="", annot_kws={"fontsize": 6.5},
                xticklabels=table.severities, yticklabels=[name.replace("_", " ") for name in table.corruptions] if place == 0 else False,
                linewidths=0.4,
            )  # fmt: skip
            axis.tick_params(length=0)
            axis.tick_params("x", rotation=0)
            axis.tick_params("y", rotation=0)
            axis.set(xlabel="severity", title=table.model)
        return save(figure, stem)
