"""Learning curves: loss and accuracy by epoch, of one training or of many, drawn from the rows of their logs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.report.draw import png_bytes, theme
from robustatt.report.style import SeriesStyle, dash

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, float]]

PANELS = 3
"""Panels in a row of a figure of many trainings."""

LOSS = "train_loss"
ACCURACIES = {
    "train_accuracy": ("training images", 0),
    "held_out_accuracy": ("held-out training images", 2),
    "held_out_robust_accuracy": ("held-out training images under PGD-10", 3),
    "test_accuracy": ("test images", 1),
}
"""Columns of the log: what the accuracy is of, and the number of its colour."""


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV log; NaN where an epoch was not measured."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) if value else math.nan for key, value in row.items()} for row in csv.DictReader(file)]


def curve_png(rows: Rows, title: str) -> bytes:
    """A PNG of two panels, loss and accuracy; ``rows`` as in the CSV log."""
    with theme():
        figure = _figure(2)
        loss, accuracy = figure.subplots(1, 2)
        _line(loss, rows, LOSS, "", SeriesStyle(0))
        for key, (label, colour) in ACCURACIES.items():
            _line(accuracy, rows, key, label, SeriesStyle(colour))
        _finish(loss, "training loss", percent=False)
        _finish(accuracy, "accuracy", percent=True)
        accuracy.legend()
        figure.suptitle(title, fontsize=10)
        return png_bytes(figure)


def curves_png(runs: Mapping[str, Rows]) -> bytes:
    """A PNG of many trainings by name: a panel for the loss and for each accuracy that any of them has measured."""
    measured = [key for key in ACCURACIES if any(_points(rows, key) for rows in runs.values())]
    with theme():
        columns = min(PANELS, 1 + len(measured))
        lines = -(-(1 + len(measured)) // columns)
        figure = _figure(columns, 2.9 * lines + 0.3 + 0.2 * -(-len(runs) // (2 * columns)))
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for axes, key in zip(panels, [LOSS, *measured], strict=False):
            for (name, rows), look in zip(runs.items(), _looks(list(runs)), strict=True):
                _line(axes, rows, key, name, look)
            _finish(axes, "", percent=key != LOSS)
            axes.set_title("training loss" if key == LOSS else f"accuracy, {ACCURACIES[key][0]}", loc="left")
        for spare in panels[1 + len(measured) :]:
            spare.set_axis_off()
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2 * columns)
        return png_bytes(figure)


def _looks(names: Sequence[str]) -> list[SeriesStyle]:
    """A colour for each network, a dash pattern for each of its seeds."""
    networks = [name.rpartition("-seed")[0] or name for name in names]
    colours = {network: number for number, network in enumerate(dict.fromkeys(networks))}
    return [SeriesStyle(colours[network], dash(networks[:place].count(network))) for place, network in enumerate(networks)]


def _figure(panels: int, height: float = 3.2) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.0 * panels, height), layout="constrained")


def _points(rows: Rows, key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if not math.isnan(row.get(key, math.nan))]


def _line(axes: Axes, rows: Rows, key: str, label: str, look: SeriesStyle) -> None:
    points = _points(rows, key)
    if points:
        axes.plot(
            *zip(*points, strict=True), color=look.light, dashes=look.dash, marker=look.marker, markersize=3, linewidth=1.2,
            label=label,
        )  # fmt: skip


def _finish(axes: Axes, label: str, *, percent: bool) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
