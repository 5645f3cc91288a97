"""Who fails: accuracy by true class and the examples that break first and last, on the page and as tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.files import write_atomically
from robustatt.plan import BoundPlan
from robustatt.report.draw import write_csv
from robustatt.report.heatmaps import class_name, shrink
from robustatt.report.markdown import plain_table
from robustatt.report.tables import inert
from robustatt.results.by_class import BreakingOrder, BrokenExample, ClassPoint, breaking_order, class_points
from robustatt.results.images import ImageStore
from robustatt.results.outcomes import Outcomes
from robustatt.results.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 10
"""Examples at either end, and classes at either end where there are more than twice as many."""


@dataclass(frozen=True)
class ClassRow:
    """One class at the radii that are shown, None where it has no example; an empty name stands for those left out."""

    name: str
    n: int
    points: tuple[ClassPoint | None, ...]


@dataclass(frozen=True)
class ClassTable:
    """The classes of one model under one attack, by accuracy at `at`, the lowest first."""

    model: str
    attack: str
    at: str
    radii: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    classes: int
    below: tuple[str, ...]
    """Classes that do worse than the others at some radius."""
    above: tuple[str, ...]


@dataclass(frozen=True)
class BreakingTable:
    """The examples of one model under one attack that break first and last, with pictures of those that were saved, as data URIs."""

    order: BreakingOrder
    pictures: Mapping[int, str]

    @property
    def ends(self) -> list[tuple[str, Sequence[BrokenExample]]]:
        """Either end under its heading; one that is empty is left out."""
        ends = [("First to break", self.order.first(SHOWN)), ("Last to break", self.order.last(SHOWN))]
        return [(title, examples) for title, examples in ends if examples]


def class_tables(layout: Sequence[Outcomes], summary: Summary, attack: str | None, radii: Sequence[str]) -> list[ClassTable]:
    """The table of each model under an attack; none where all images are of one class."""
    middle = {entry.model: entry.eps for entry in summary.confusion if entry.attack == attack}
    shown = [outcomes for outcomes in layout if outcomes.attack == attack and np.unique(outcomes.label).size > 1]
    return [_class_table(outcomes, middle.get(outcomes.model, outcomes.eps[-1]), radii, summary) for outcomes in shown]


def _class_table(outcomes: Outcomes, at: str, radii: Sequence[str], summary: Summary) -> ClassTable:
    points = class_points(outcomes)
    by_class: dict[int, dict[str, ClassPoint]] = {}
    for point in points:
        by_class.setdefault(point.label, {})[point.eps] = point
    columns = tuple(eps for eps in outcomes.eps if eps in radii or eps == at)
    names = summary.plan.data.classes

    def order(label: int) -> tuple[float, int]:
        return by_class[label][at].accuracy if at in by_class[label] else 2.0, label

    rows = [
        ClassRow(class_name(label, names), max(p.n for p in mine.values()), tuple(mine.get(eps) for eps in columns))
        for label, mine in ((label, by_class[label]) for label in sorted(by_class, key=order))
    ]
    if len(rows) > 2 * SHOWN:
        rows = [*rows[:SHOWN], ClassRow("", len(rows) - 2 * SHOWN, ()), *rows[-SHOWN:]]
    below, above = (tuple(dict.fromkeys(class_name(p.label, names) for p in points if p.differs == side)) for side in (-1, 1))
    return ClassTable(outcomes.model, outcomes.attack, at, columns, tuple(rows), len(by_class), below, above)


def breaking_tables(directory: Path, records: pd.DataFrame, models: Sequence[str], attack: str) -> list[BreakingTable]:
    """For each model which examples break first and last under an attack; InputError if saved images are of another format."""
    tables = []
    for model in models:
        order = breaking_order(records, model, attack)
        if order.broken or order.held:
            wanted = {example.index: example.eps for example in [*order.first(SHOWN), *order.last(SHOWN)]}
            tables.append(BreakingTable(order, dict(_pictures(directory, model, attack, wanted))))
    return tables


def _pictures(directory: Path, model: str, attack: str, wanted: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """The saved image of each of these examples at its radius, if there is one."""
    if not (directory / "plan.toml").exists():
        return
    bound = BoundPlan.read(directory)
    store = ImageStore(bound.records or directory / "records", read_only=True)
    for cell in bound.cells():
        if (cell.model, cell.attack.name) != (model, attack) or (file := store.read(cell.key)) is None:
            continue
        rows = [
            (row, int(i))
            for row, (i, eps) in enumerate(zip(file.rows["index"], file.rows["eps"], strict=True))
            if wanted.get(int(i)) == eps
        ]
        images = file.images() if rows and file.shape[0] in (1, 3) else ()
        yield from ((index, _picture(images[row])) for row, index in rows if len(images))


def _picture(image: NDArray[np.float32]) -> str:
    """An image ``(c, h, w)`` as a PNG in a data URI, to look at: rounded to 8 bits, and averaged down if it is large."""
    from PIL import Image

    colour = np.moveaxis(np.broadcast_to(image, (3, *image.shape[1:])), 0, 2)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * shrink(np.nan_to_num(colour).clip(0, 1), 96)).astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Tables ----------------------------------------------------------------------------------------------------


def write_class_tables(
    layout: Sequence[Outcomes], tables: Sequence[ClassTable], broken: Sequence[BreakingTable], summary: Summary, folder: Path
) -> list[Path]:
    """Write ``classes.csv`` (every class, radius, model and attack), ``classes.md`` (as on the page) and ``breaking.csv``."""
    names = summary.plan.data.classes
    paths = []
    rows = [
        vars(point) | {"model": inert(point.model), "attack": inert(point.attack), "class": inert(class_name(point.label, names))}
        for outcomes in layout
        for point in class_points(outcomes)
    ]
    if rows:
        paths.append(folder / "classes.csv")
        columns = [name for name in rows[0] if name != "class"]
        columns.insert(columns.index("label") + 1, "class")
        write_csv(pd.DataFrame(rows, columns=columns), paths[-1])
    if tables:
        paths.append(folder / "classes.md")
        write_atomically(paths[-1], "\n".join(map(_markdown, tables)).encode())
    ends = [
        {"model": inert(t.order.model), "attack": inert(t.order.attack), "end": title.split()[0].lower(), "place": place + 1, "index": e.index,
         "label": e.label, "class": inert(class_name(e.label, names)), "eps": e.eps, "taken_for": inert(class_name(e.prediction, names))}
        for t in broken for title, examples in t.ends for place, e in enumerate(examples)
    ]  # fmt: skip
    if ends:
        paths.append(folder / "breaking.csv")
        write_csv(pd.DataFrame(ends), paths[-1])
    return paths


def _markdown(table: ClassTable) -> str:
    heads = ["class", "n", *("clean" if eps == "0/255" else eps for eps in table.radii)]
    rows = [
        [row.name, f"{row.n:,}", *map(_cell, row.points)] if row.name else [f"... {row.n:,} more", *[""] * (len(heads) - 1)]
        for row in table.rows
    ]
    note = "Accuracy in per cent with its 95 % Wilson interval; v worse and ^ better than the other classes (Fisher's exact test, Holm over all classes and radii, 5 %)."
    title = f"**{table.model} under {table.attack}**, by accuracy at {table.at}".replace("_", "\\_")
    return "\n".join([title, "", *plain_table(heads, rows, range(1, len(heads))), "", note]) + "\n"


def _cell(point: ClassPoint | None) -> str:
    if point is None:
        return ""
    sign = {-1: " v", 0: "", 1: " ^"}[point.differs]
    return f"{100 * point.accuracy:.1f} ({100 * point.ci_low:.1f} to {100 * point.ci_high:.1f}){sign}"
