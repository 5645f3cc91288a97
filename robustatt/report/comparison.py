"""Two runs side by side: curves, the paired difference at every radius, each example that flipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import robustatt.report.page as page
import robustatt.report.text as text
from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.files import subfolder, write_atomically
from robustatt.report.charts import chart, hover_data
from robustatt.report.draw import write_csv
from robustatt.report.figures import Panel, accuracy_panel
from robustatt.report.style import DASHES, looks
from robustatt.results.aggregate import compare_outcomes
from robustatt.results.gate import plan_changes
from robustatt.results.outcomes import Outcomes, curves_of
from robustatt.results.reference import identity
from robustatt.results.summary import Summary

Run = tuple[str, pd.DataFrame, Summary]
MAX_FLIPS = 200
"""Rows of flips that the page lists; the CSV has all."""

FLIP_COLUMNS = [
    "model",
    "attack",
    "eps",
    "index",
    "label",
    "clean_a",
    "clean_b",
    "pred_a",
    "pred_b",
    "change",
]


def write(first: Run, second: Run, out: Path) -> tuple[Path, tuple[Path, ...], tuple[Path, ...]]:
    """Write the page and its tables; page, figures (none), tables."""
    a, b = curves_of(first[1]), curves_of(second[1])
    common = [key for key in a if key in b]
    if not common:
        raise InputError(f"{first[0]} and {second[0]} have no model and attack in common: nothing to compare")
    for key in common:
        _same_images(a[key], b[key])
    rows = [row for key in common for row in difference_rows(b[key], a[key])]
    flips = pd.DataFrame([flip for key in common for flip in flip_rows(a[key], b[key])], columns=FLIP_COLUMNS)
    rendered = page.render_template("comparison.html.j2", context(first, second, rows, flips))
    try:
        tables = subfolder(out, "tables")
        write_atomically(out / "comparison.html", rendered.encode())
        for name, table in (("comparison.csv", pd.DataFrame(rows)), ("flips.csv", flips)):
            write_csv(table, tables / name)
    except OSError as error:
        raise InputError(f"cannot write the comparison into {out}: {error.strerror or error}") from None
    return out / "comparison.html", (), (tables / "comparison.csv", tables / "flips.csv")


def _same_images(old: Outcomes, new: Outcomes) -> None:
    """Raise InputError if the two grids are of different data sets."""
    at_old, at_new = old.align(new)
    if at_old.size == 0 or not np.array_equal(old.label[at_old], new.label[at_new]):
        raise InputError(f"the runs of {old.model} under {old.attack} are not of the same images: labels differ")


def difference_rows(new: Outcomes, old: Outcomes) -> list[dict[str, object]]:
    """Accuracy of the second run minus the first, radius by radius, on the examples that both have."""
    renamed = {"only_model": "gained", "only_baseline": "lost"}
    rows = [row.as_dict() for row in compare_outcomes(new, old)]
    kept = [[(key, value) for key, value in row.items() if key != "baseline" and key not in renamed] for row in rows]
    return [dict([*pairs, *((new, row[key]) for key, new in renamed.items())]) for pairs, row in zip(kept, rows, strict=True)]


def flip_rows(old: Outcomes, new: Outcomes) -> Iterator[dict[str, object]]:
    """Every example that is right in one run and wrong in the other, at each radius of both."""
    at_old, at_new = old.align(new)
    index = old.index[at_old]
    was, now = old.correct, new.correct
    for column, eps in enumerate(old.eps):
        if eps not in new.eps:
            continue
        other = new.eps.index(eps)
        both = old.present[at_old, column] & new.present[at_new, other]
        before, after = was[at_old, column], now[at_new, other]
        for i in np.flatnonzero(both & (before != after)):
            values = (
                old.model,
                old.attack,
                eps,
                int(index[i]),
                int(old.label[at_old[i]]),
                int(old.clean_pred[at_old[i]]),
                int(new.clean_pred[at_new[i]]),
                int(old.adv_pred[at_old[i], column]),
                int(new.adv_pred[at_new[i], other]),
                "lost" if before[i] else "gained",
            )
            yield dict(zip(FLIP_COLUMNS, values, strict=True))


def context(first: Run, second: Run, rows: Sequence[Mapping[str, Any]], flips: pd.DataFrame) -> page.Context:
    """Everything that the comparison's page shows."""
    names = [text.without_paths(run[0]) for run in (first, second)]
    if names[0] == names[1]:
        names = [f"{names[0]} (1)", f"{names[1]} (2)"]
    panels = list(_panels(first[2], second[2], names))
    changes = plan_changes(identity(first[2].plan), identity(second[2].plan))
    return {
        **page.frame_parts(),
        "names": names,
        "changes": [(change.field, change.reference, change.run) for change in changes],
        "rows": [{**row, "steps": float(parse_radius(row["eps"]))} for row in rows],
        "significant": sum(row["p_holm"] <= 0.05 for row in rows),
        "charts": [{"title": panel.title, "svg": chart(panel)} for panel in panels],
        "hover": {panel.slug: hover_data(panel) for panel in panels},
        "flips": flips.head(MAX_FLIPS).to_dict("records"),
        "flips_total": len(flips),
        "classes": page.class_names(first[2]),
    }


def _panels(first: Summary, second: Summary, names: Sequence[str]) -> Iterator[Panel]:
    """One panel for each model and attack of both runs: the first run dashed, the second solid."""
    series = [
        {tuple(s.keys.values()): s for s in accuracy_panel(summary, looks(*summary.curve_names())).series}
        for summary in (first, second)
    ]
    for number, key in enumerate(key for key in series[0] if key in series[1]):
        model, attack = key
        if not first.is_adversary(attack):
            continue
        old = replace(series[0][key], label=names[0], look=replace(series[0][key].look, colour=0, dash=DASHES[1]))
        new = replace(series[1][key], label=names[1], look=replace(series[1][key].look, colour=1, dash=()))
        yield Panel(f"pair-{number}", f"{model} under {attack}", "accuracy", (old, new))
