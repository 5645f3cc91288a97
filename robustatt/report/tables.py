"""The accuracy table in the forms people paste: CSV of every point, Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.files import write_atomically
from robustatt.report.markdown import plain_table
from robustatt.report.text import SALIENCY_NOTE, STOPPING_NOTE, DriftPrediction, prediction_rows
from robustatt.results.summary import Curve, Point, Summary

if TYPE_CHECKING:
    from robustatt.report.page import Overview

COLUMNS = ("eps", "n", "accuracy", "ci_low", "ci_high", "worst_case_accuracy", "fooling_rate")


def write_tables(summary: Summary, overviews: Sequence[Overview], folder: Path, whole: Summary) -> list[Path]:
    """Write ``summary.csv`` (every point of the whole summary, attacks without a norm included), ``accuracy.md`` and ``accuracy.tex`` (the overview).

    Where drift was recorded also ``drift.md``: does it predict being fooled?
    """
    texts = {"summary.csv": summary_csv(whole)}
    if summary.curves:
        texts |= {"accuracy.md": "\n".join(map(markdown, overviews)), "accuracy.tex": "\n".join(map(latex, overviews))}
    predictions = prediction_rows(summary)
    if predictions:
        texts["drift.md"] = drift_markdown(predictions)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]


def summary_csv(summary: Summary) -> str:
    """Every point of every curve, one line each."""
    return points_csv({name: name for name in ("model", "attack", "norm")}, summary.curves)


def points_csv(names: Mapping[str, str], curves: Sequence[Curve]) -> str:
    """The points of curves, one line each, after what names a curve (column to attribute); what a spreadsheet would run is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, *COLUMNS])
    for curve in curves:
        told = [inert(getattr(curve, name)) for name in names.values()]
        writer.writerows([*told, *(getattr(point, column) for column in COLUMNS)] for point in curve.points)
    return buffer.getvalue()


def inert(name: str) -> str:
    """A name that no spreadsheet runs as a formula."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@", "\t", "\r"} else name


def markdown(overview: Overview) -> str:
    """Accuracy in per cent with its 95 % interval, models and attacks by radius."""
    heads = ["model", "attack", *("clean" if eps == "0/255" else eps for eps in overview.radii)]
    rows = [[row.model, row.attack, *(_cell(point) for point in row.cells)] for row in overview.rows]
    title = [f"**{overview.norm}**", ""] if overview.norm else []
    return "\n".join([*title, *plain_table(heads, rows, range(2, len(heads)))]) + "\n"


def drift_markdown(rows: Sequence[DriftPrediction]) -> str:
    """Does drift predict being fooled: area under the ROC curve with its 95 % interval."""
    heads = ["model", "attack", "map", "radius", "area (95 %)", "fooled", "held", "predicts being fooled?"]
    cells = [
        [row.model, row.attack, f"{row.level} ({row.kind})", row.eps,
         f"{row.auc:.3f}" + ("" if row.too_few else f" ({row.low:.3f} to {row.high:.3f})"),
         str(row.n_fooled), str(row.n_held), row.reading]
        for row in rows
    ]  # fmt: skip
    lines = plain_table(heads, cells, range(3, 7))
    notes = ["", STOPPING_NOTE, *([SALIENCY_NOTE] if any(row.kind == "saliency" for row in rows) else [])]
    return "\n".join([*lines, *notes]) + "\n"


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    accuracy, low, high = 100 * point.accuracy, 100 * point.ci_low, 100 * point.ci_high
    return f"{accuracy:.1f} ({low:.1f} to {high:.1f})"


def latex(overview: Overview) -> str:
    """The same table for a paper; needs ``\\usepackage{booktabs}``."""
    heads = ["model", "attack", *("clean" if eps == "0/255" else f"${eps}$" for eps in overview.radii)]
    lines = [
        "% accuracy in per cent with half the width of its 95 % Wilson interval; \\usepackage{booktabs}",
        *([f"% {overview.norm}"] if overview.norm else []),
        "\\begin{tabular}{ll" + "r" * len(overview.radii) + "}",
        "\\toprule",
        " & ".join(heads) + " \\\\",
        "\\midrule",
    ]
    for row in overview.rows:
        cells = [_tex(row.model), _tex(row.attack), *(_tex_cell(point) for point in row.cells)]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _tex_cell(point: Point | None) -> str:
    if point is None:
        return "--"
    half = 50 * (point.ci_high - point.ci_low)
    return f"${100 * point.accuracy:.1f} \\pm {half:.1f}$"


def _tex(text: str) -> str:
    """A name as LaTeX prints it letter by letter."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(special.get(sign, sign) for sign in " ".join(text.split()))
