"""Transfer on the page and in print: the matrix at each radius, and what is crafted elsewhere beside the attack on a model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from robustatt.files import file_safe, write_atomically
from robustatt.report.draw import save_with_table, shorten, theme
from robustatt.report.figures import FigureSpec, Panel, Series, curve_series
from robustatt.report.markdown import plain_table
from robustatt.report.style import SHADES, SeriesStyle
from robustatt.report.tables import points_csv
from robustatt.results.summary import Point, Summary
from robustatt.results.transfer import WHITE_BOX, TransferMatrix, matrices, matrix_texts

PANELS = 4
"""Models side by side in one figure."""
MOST_SLIDES = 32
"""Radii that the page's slider offers; all are in the table."""
DASH = (6, 2.5)
CSV_NAMES = {"crafted_on": "surrogate", "tested_on": "model", "attack": "attack", "norm": "norm"}


@dataclass(frozen=True)
class ShadedPoint:
    """One number of the matrix: accuracy with its interval, how dark it is, and whether the image met the model it was crafted on."""

    point: Point | None
    shade: int
    own: bool


@dataclass(frozen=True)
class Slide:
    """The matrix at one radius: for each surrogate its cells, then those of the attacks on the models themselves."""

    eps: str
    rows: tuple[tuple[str, tuple[ShadedPoint, ...]], ...]
    white: tuple[ShadedPoint, ...]


@dataclass(frozen=True)
class Slider:
    """All slides of one attack, and which is shown first."""

    slug: str
    attack: str
    models: tuple[str, ...]
    slides: tuple[Slide, ...]
    first: int


def sliders(summary: Summary) -> list[Slider]:
    """What the page shows of each attack that was crafted on surrogates."""
    return [_slider(matrix) for matrix in matrices(summary)]


def _slider(matrix: TransferMatrix) -> Slider:
    radii = _some(matrix.radii, matrix.headline)
    slides = tuple(_slide(matrix, eps) for eps in radii)
    return Slider(f"transfer-{file_safe(matrix.attack)}", matrix.attack, matrix.models, slides, radii.index(matrix.headline))


def _some(radii: Sequence[str], kept: str) -> list[str]:
    """At most `MOST_SLIDES` radii, evenly spread, one of them given."""
    if len(radii) <= MOST_SLIDES:
        return list(radii)
    places = {round(place) for place in np.linspace(0, len(radii) - 1, MOST_SLIDES - 1)}
    return [radii[place] for place in sorted(places | {list(radii).index(kept)})]


def _slide(matrix: TransferMatrix, eps: str) -> Slide:
    def cell(point: Point | None, own: bool) -> ShadedPoint:
        return ShadedPoint(point, 0 if point is None else int(np.ceil(SHADES * (1 - point.accuracy))), own)

    rows = tuple(
        (surrogate, tuple(cell(matrix.points.get((eps, surrogate, model)), surrogate == model) for model in matrix.models))
        for surrogate in matrix.surrogates
    )
    return Slide(eps, rows, tuple(cell(matrix.white.get((eps, model)), True) for model in matrix.models))


def figures(summary: Summary) -> list[FigureSpec]:
    """For each attack the curves of every model: under the attack on itself, and on what was crafted on each surrogate."""
    caption = (
        "Solid: the attack on the model itself (white box), as in the curves above. Dashed: the same attack crafted on another model, "
        "all its steps at every radius, and tested here (black box). A dashed curve well below the solid one means that the attack on "
        "the model itself fails. Bands: 95 % Wilson intervals."
    )
    found = []
    for matrix in matrices(summary):
        panels = [_panel(summary, matrix, model) for model in matrix.models]
        for number, first in enumerate(range(0, len(panels), PANELS)):
            slug = f"transfer-{file_safe(matrix.attack)}{f'-{number + 1}' if number else ''}"
            title = f"White box and transfer, {matrix.attack}"
            found.append(FigureSpec(slug, title, caption, tuple(panels[first : first + PANELS])))
    return found


def _panel(summary: Summary, matrix: TransferMatrix, model: str) -> Panel:
    names = list(dict.fromkeys([*summary.curve_names()[0], *matrix.surrogates]))
    white = [curve for curve in summary.curves if (curve.model, curve.attack) == (model, matrix.attack)]
    crafted = [
        curve for curve in summary.transfer
        if (curve.model, curve.attack) == (model, matrix.attack) and curve.surrogate != model
    ]  # fmt: skip
    series: list[Series] = [
        curve_series(curve, "accuracy", f"{model}, {WHITE_BOX}", SeriesStyle(names.index(model)), {"crafted_on": WHITE_BOX})
        for curve in white
    ]
    series += [
        curve_series(
            curve,
            "accuracy",
            f"crafted on {curve.surrogate}",
            SeriesStyle(names.index(curve.surrogate), DASH),
            {"crafted_on": curve.surrogate},
        )
        for curve in crafted
    ]
    return Panel(f"model-{names.index(model)}", f"Tested on {model}", "accuracy", tuple(series))


def write_heatmaps(summary: Summary, folder: Path) -> list[Path]:
    """For each attack ``transfer-matrix-<attack>`` as PNG, SVG and CSV: the matrix at the radius that is shown first."""
    return [path for matrix in matrices(summary) for path in _heatmap(matrix, folder)]


def _heatmap(matrix: TransferMatrix, folder: Path) -> list[Path]:
    import seaborn
    from matplotlib.figure import Figure

    eps = matrix.headline
    points = [[matrix.points.get((eps, surrogate, model)) for model in matrix.models] for surrogate in matrix.surrogates]
    values = np.array([[np.nan if point is None else 100 * point.accuracy for point in row] for row in points])
    texts = np.array([["" if point is None else _short(point) for point in row] for row in points], dtype=object)
    rows, columns = ([shorten(name, 24) for name in names] for names in (matrix.surrogates, matrix.models))
    left, below = 0.6 + 0.075 * max(map(len, rows)), 0.5 + (0.075 * max(map(len, columns)) if len(columns) > 3 else 0.0)
    wide, high = left + 0.9 * len(columns) + 0.2, below + 0.6 * len(rows) + 0.35
    with theme(**{"axes.grid": False}):
        figure = Figure(figsize=(max(wide, 3.4), high))
        figure.subplots_adjust(
            left=left / max(wide, 3.4), right=1 - 0.15 / max(wide, 3.4), bottom=below / high, top=1 - 0.3 / high
        )
        axis = figure.subplots()
        seaborn.heatmap(
            values, ax=axis, cmap="Blues_r", vmin=0, vmax=105, cbar=False, annot=texts, fmt="", annot_kws={"fontsize": 7},
            xticklabels=columns, yticklabels=rows, linewidths=1,
        )  # fmt: skip
        axis.tick_params(length=0)
        axis.tick_params("x", rotation=90 if len(columns) > 3 else 0)
        axis.tick_params("y", rotation=0)
        axis.set(xlabel="tested on", ylabel="crafted on")
        axis.set_title(f"Accuracy in %, {matrix.attack} at {eps}", x=0.0)
    return save_with_table(figure, folder / f"transfer-matrix-{file_safe(matrix.attack)}", pd.DataFrame(_rows(matrix, eps)))


def _short(point: Point) -> str:
    return f"{100 * point.accuracy:.1f}\n{100 * point.ci_low:.0f}\N{EN DASH}{100 * point.ci_high:.0f}"


def _rows(matrix: TransferMatrix, eps: str) -> list[dict[str, object]]:
    return [
        {"attack": matrix.attack, "eps": eps, "crafted_on": surrogate, "tested_on": model, "accuracy": point.accuracy,
         "ci_low": point.ci_low, "ci_high": point.ci_high, "n": point.n}
        for (radius, surrogate, model), point in matrix.points.items() if radius == eps
    ]  # fmt: skip


def write_tables(summary: Summary, folder: Path) -> list[Path]:
    """Write ``transfer.csv`` (every point) and ``transfer.md`` (the matrices at the radius that is shown first), if there are any."""
    if not summary.transfer:
        return []
    texts = {"transfer.csv": points_csv(CSV_NAMES, summary.transfer), "transfer.md": "\n".join(map(markdown, matrices(summary)))}
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def markdown(matrix: TransferMatrix) -> str:
    """Accuracy in per cent with its 95 % interval: crafted on (rows), tested on (columns); the last row is the usual sweep."""
    heads = [f"{matrix.attack} at {matrix.headline}, crafted on", *matrix.models]
    return "\n".join(plain_table(heads, matrix_texts(matrix), range(1, len(heads)))) + "\n"
