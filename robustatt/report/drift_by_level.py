"""Where in the depth of a network attention gives way: mean drift by level and radius, on the page and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.eps import parse_radius
from robustatt.report.draw import save, theme, write_csv
from robustatt.report.figures import attack_title
from robustatt.report.style import shades
from robustatt.results.columns import DRIFT_METRICS, kind_of, level_title
from robustatt.results.summary import DriftRow, Summary

METRIC = "js"
MAX_COLUMNS = 10
"""Radii on the page; a finer grid is thinned out there, and whole in the figure and the CSV file."""


@dataclass(frozen=True)
class LevelTable:
    """Mean drift of one model's attention under one attack, ``(level, radius)``; NaN where nothing was measured.

    `shades` are on one scale for all models of a page.
    """

    model: str
    attack: str
    levels: list[str]
    radii: list[str]
    drift: NDArray[np.float64]
    n: NDArray[np.int64]
    shades: NDArray[np.int64]

    @property
    def columns(self) -> list[int]:
        """The radii that the page shows: the largest, and every second, third ... below it where there are many."""
        step = -(-len(self.radii) // MAX_COLUMNS)
        return list(range(len(self.radii) - 1, -1, -step))[::-1]

    @property
    def titles(self) -> list[str]:
        """The levels as figures name them."""
        return [level_title(level) for level in self.levels]


def level_tables(summary: Summary, attack: str | None) -> list[LevelTable]:
    """The tables of all models whose attention has more than one level."""
    rows = [
        row for row in summary.measured_drift()
        if row.attack == attack and row.metric == METRIC and row.group == "all" and parse_radius(row.eps) > 0
        and kind_of(row.level) == "attention" and row.mean is not None
    ]  # fmt: skip
    top = max((row.mean or 0.0 for row in rows), default=0.0)
    heading = "" if attack is None else attack_title(summary, attack)
    tables = [
        _table([row for row in rows if row.model == model], top, heading) for model in dict.fromkeys(row.model for row in rows)
    ]
    return [table for table in tables if len(table.levels) > 1]


def _table(rows: Sequence[DriftRow], top: float, attack: str) -> LevelTable:
    levels = list(dict.fromkeys(row.level for row in rows))
    radii = sorted({row.eps for row in rows}, key=parse_radius)
    drift, n = np.full((len(levels), len(radii)), np.nan), np.zeros((len(levels), len(radii)), dtype=np.int64)
    for row in rows:
        place = levels.index(row.level), radii.index(row.eps)
        drift[place], n[place] = row.mean, row.n
    return LevelTable(rows[0].model, attack, levels, radii, drift, n, shades(drift, top))


def write_level_figure(summary: Summary, attack: str | None, folder: Path) -> list[Path]:
    """Write ``drift-by-level.png``, ``.svg`` and ``.csv``; nothing if no model has more than one level of attention."""
    import seaborn
    from matplotlib.figure import Figure

    tables = level_tables(summary, attack)
    if not tables:
        return []
    top = max(float(np.nanmax(table.drift)) for table in tables)
    with theme(**{"axes.grid": False}):
        heights = [0.55 + 0.3 * len(table.levels) for table in tables]
        width, height = 7.2, sum(heights) + 0.55
        figure = Figure(figsize=(width, height))
        longest = max(len(title) for table in tables for title in table.titles)
        left, bar = (0.3 + 0.075 * longest) / width, 0.9 / width
        bottom = height
        for number, (table, tall) in enumerate(zip(tables, heights, strict=True)):
            bottom -= tall
            axis = figure.add_axes((left, (bottom + 0.05) / height, 1 - left - bar - 0.15 / width, (tall - 0.38) / height))
            last = number == len(tables) - 1
            seaborn.heatmap(
                table.drift, ax=axis, cmap="Blues", vmin=0, vmax=top, cbar=False, yticklabels=table.titles,
                xticklabels=[radius.removesuffix("/255") for radius in table.radii] if last else False, linewidths=0.4,
            )  # fmt: skip
            axis.tick_params(length=0)
            axis.tick_params("x", rotation=0)
            axis.tick_params("y", rotation=0)
            axis.set_title(f"{table.model} under {table.attack}", loc="left")
            if last:
                steps = all(radius.endswith("/255") for radius in table.radii)
                axis.set_xlabel("ε in 1/255" if steps else "ε")
        scale = figure.add_axes((1 - bar + 0.1 / width, 0.6 / height, 0.13 / width, min(2.2, height - 1.0) / height))
        figure.colorbar(figure.axes[0].collections[0], cax=scale)
        scale.set_title("mean\ndrift", fontsize="small", loc="left")
        paths = save(figure, folder / "drift-by-level")
    write_csv(frame(tables), folder / "drift-by-level.csv")
    return [*paths, folder / "drift-by-level.csv"]


def frame(tables: Sequence[LevelTable]) -> pd.DataFrame:
    """The numbers of the figure, a row for each model, level and radius."""
    return pd.DataFrame([
        {"model": table.model, "attack": table.attack, "level": level, "metric": METRIC, "eps": radius,
         "mean": table.drift[i, j], "n": table.n[i, j]}
        for table in tables for i, level in enumerate(table.levels) for j, radius in enumerate(table.radii)
    ])  # fmt: skip


CAPTION = (
    f"Mean {DRIFT_METRICS[METRIC].title} ({DRIFT_METRICS[METRIC].unit}) between the attention maps of clean and attacked images, by level and "
    "radius, over all images attacked there; darker is more, on one scale for all models."
)
