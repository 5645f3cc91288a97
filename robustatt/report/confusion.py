"""Which class the fooled images are taken for: the matrix on the page, the figure, the CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.report.draw import save, theme, write_csv
from robustatt.report.heatmaps import class_name
from robustatt.report.style import shades
from robustatt.results.summary import Confusion, Summary

MAX_CLASSES = 12


@dataclass(frozen=True)
class Matrix:
    """The confusion of one model under one attack at one radius, for the classes that are shown.

    `counts` and `shades` are ``(true class, predicted class)``; `left_out` is the number of
    fooled images outside them.
    """

    entry: Confusion
    names: list[str]
    counts: NDArray[np.int64]
    shades: NDArray[np.int64]
    left_out: int


def matrices(summary: Summary, attack: str | None, classes: Sequence[str]) -> list[Matrix]:
    """The confusion of each model under this attack."""
    return [_matrix(entry, classes) for entry in summary.confusion if entry.attack == attack]


def _matrix(entry: Confusion, classes: Sequence[str]) -> Matrix:
    involved: Counter[int] = Counter()
    for true, taken, count in entry.flows:
        involved[true] += count
        involved[taken] += count
    shown = sorted(number for number, _ in involved.most_common(MAX_CLASSES))
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    for true, taken, count in entry.flows:
        if true in shown and taken in shown:
            counts[shown.index(true), shown.index(taken)] = count
    names = [class_name(number, classes) for number in shown]
    return Matrix(entry, names, counts, shades(counts, int(counts.max(initial=0))), int(entry.n_fooled - counts.sum()))


def write_confusion(summary: Summary, attack: str | None, classes: Sequence[str], folder: Path) -> list[Path]:
    """Write ``confusion.png``, ``.svg`` and ``.csv`` (every flow); nothing if no image was fooled."""
    import seaborn
    from matplotlib.figure import Figure

    found = [matrix for matrix in matrices(summary, attack, classes) if matrix.names]
    if not found:
        return []
    with theme(**{"axes.grid": False}):
        wide = 0.2 + 3.9 * len(found)
        longest = max(len(_short(name)) for matrix in found for name in matrix.names)
        margin = 0.45 + 0.06 * longest
        figure = Figure(figsize=(wide, 3.5 + margin))
        figure.subplots_adjust(
            left=margin / wide,
            right=1 - 0.1 / wide,
            bottom=margin / (3.5 + margin),
            top=1 - 0.3 / (3.5 + margin),
        )
        for axis, matrix in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            counts, names = matrix.counts, [_short(name) for name in matrix.names]
            seaborn.heatmap(
                counts, ax=axis, cmap="Blues", vmin=0, vmax=max(1, counts.max()), square=True, cbar=False,
                annot=np.where(counts, counts.astype(str), ""), fmt="", annot_kws={"fontsize": 6.5},
                xticklabels=names, yticklabels=names,
            )  # fmt: skip
            axis.tick_params(length=0)
            axis.tick_params("x", rotation=90 if max(map(len, names)) > 3 else 0)
            axis.tick_params("y", rotation=0)
            axis.set(xlabel="taken for", ylabel="true class", title=f"{matrix.entry.model} at {matrix.entry.eps}")
        paths = save(figure, folder / "confusion")
    rows = [
        {
            "model": m.entry.model,
            "attack": attack,
            "eps": m.entry.eps,
            "true": true,
            "taken_for": taken,
            "count": count,
        }
        for m in found
        for true, taken, count in m.entry.flows
    ]
    write_csv(pd.DataFrame(rows), folder / "confusion.csv")
    return [*paths, folder / "confusion.csv"]


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"
