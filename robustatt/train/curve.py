"""The learning curve of a training: loss and accuracy by epoch, drawn from the rows of its log."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from robustatt.report.style import LIGHT

SERIES = {
    "train_accuracy": ("training images", 0, "o"),
    "held_out_accuracy": ("held-out training images", 2, "^"),
    "held_out_robust_accuracy": ("held-out training images under PGD-10", 3, "v"),
    "test_accuracy": ("test images", 1, "s"),
}


def curve_png(rows: Sequence[Mapping[str, float]], title: str) -> bytes:
    """A PNG of two panels, loss and accuracy in per cent; ``rows`` as in the CSV log."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["train_loss"] for row in rows], color=LIGHT[0], marker="o", markersize=3)
    left.set_ylabel("training loss")
    for key, (label, colour, marker) in SERIES.items():
        points = [(row["epoch"], 100 * row[key]) for row in rows if not math.isnan(row.get(key, math.nan))]
        if points:
            right.plot(*zip(*points, strict=True), color=LIGHT[colour], marker=marker, markersize=3, label=label)
    right.set_ylabel("accuracy in %")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
