"""A board of many runs as a page, a CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from markupsafe import Markup

import robustatt.report.page as page
from robustatt.eps import NORM_TITLES, format_radius
from robustatt.files import write_whole
from robustatt.report.charts import chart, hover_data, swatch
from robustatt.report.figures import Panel, Series
from robustatt.report.style import LIGHT, SeriesStyle
from robustatt.report.tables import inert
from robustatt.report.text import without_paths
from robustatt.results import statistics
from robustatt.results.board import Board, NormBoard, Standing
from robustatt.results.published import PublishedRow

SCHEMA = 1
DASH = "\N{EN DASH}"
DRAWN = len(LIGHT)
"""Curves that a chart holds: one for each colour."""

RULE = (
    "The rank of a model is 1 plus the number of models that are shown to be more accurate on the same images: one-sided exact McNemar "
    "tests of every ordered pair, Holm corrected, 5\N{NO-BREAK SPACE}% for the whole table. Models of one rank are ties. "
    "The small numbers are the ranks that chance leaves open."
)
UNLIKE = (
    "Not all models were attacked by the same recipes. A model that met fewer or weaker attacks looks more robust than it is: compare "
    "models with the same attacks."
)
UPPER = "Every accuracy is an upper bound: a stronger attack may find more."
PUBLISHED = (
    "Published rows are as the leaderboard prints them, on its own images. Which of them a model got right is not published, so they have no "
    "interval, no test and no rank."
)


def write_board(board: Board, out: Path) -> tuple[Path, Path, Path]:
    """Write ``board.html``, ``board.csv`` and ``board.json`` into a folder; InputError if that is not possible."""
    texts = {"board.html": render(board), "board.csv": board_csv(board), "board.json": board_json(board)}
    paths = tuple(out / name for name in texts)
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, text.encode())
    return paths[0], paths[1], paths[2]


def rank_text(row: Standing) -> str:
    """The rank, with = where others have it too; a dash without one."""
    return DASH if row.rank is None else f"{row.rank}{'=' if row.tied else ''}"


def span_text(row: Standing) -> str:
    """The ranks that chance leaves open; empty if there is one."""
    return "" if row.rank == row.last else f"{row.rank}{DASH}{row.last}"


def lines(board: NormBoard) -> list[Standing | PublishedRow]:
    """Models and published rows, most accurate first; those that are not ranked last."""
    ranked: list[Standing | PublishedRow] = [*board.ranked, *board.published]
    value = {id(row): row.accuracy.value if isinstance(row, Standing) else row.accuracy for row in ranked}
    ranked.sort(key=lambda row: -value[id(row)])
    return [*ranked, *(row for row in board.standings if row.rank is None)]


def notes(norm: NormBoard) -> list[str]:
    """What must be known before the numbers of a norm are."""
    said = [UNLIKE] if norm.unlike else []
    short = [row.entry.name for row in norm.standings if row.rank is None]
    if short:
        said.append(f"Not ranked, because images are missing: {', '.join(short)}.")
    if norm.unmeasured:
        said.append(f"Without an attack at {norm.eps}, and left out: {', '.join(entry.name for entry in norm.unmeasured)}.")
    warned = [row.entry.name for row in norm.standings if row.entry.warnings]
    if warned:
        said.append(
            f"With health warnings, so that the number may not mean what it says (their codes are in docs/health.md): {', '.join(warned)}."
        )
    return said


def render(board: Board) -> str:
    """The page as text."""
    boards = [_norm_context(norm) for norm in board.norms]
    models = {row.entry.fingerprint for norm in board.norms for row in norm.standings}
    split, runs = f" ({board.data.split})" if board.data.split else "", len(board.folders)
    facts = [f"{board.data.n:,} images{split}", f"{runs} run{'s' if runs != 1 else ''}"]
    return page.render_template("board.html.j2", {
        **page.frame_parts(),
        "title": f"{len(models)} model{'s' if len(models) != 1 else ''} on {without_paths(board.data.name)}",
        "facts": " · ".join([*facts, *(f"{NORM_TITLES[norm.norm]} at ε = {norm.eps}" for norm in board.norms)]),
        "notes": [without_paths(note) for note in board.notes],
        "boards": boards,
        "rule": RULE,
        "upper": UPPER,
        "published_note": PUBLISHED,
        "hover": {part["slug"]: part["hover"] for part in boards},
    })  # fmt: skip


def _norm_context(norm: NormBoard) -> page.Context:
    panel = _panel(norm)
    return {
        "slug": panel.slug,
        "title": NORM_TITLES[norm.norm],
        "eps": norm.eps,
        "rows": [_line(row) for row in lines(norm)],
        "notes": [without_paths(note) for note in notes(norm)],
        "has_published": bool(norm.published),
        "warned": any(row.entry.warnings for row in norm.standings),
        "svg": chart(panel),
        "hover": hover_data(panel),
        "key": [(swatch(series.look), series.label) for series in panel.series],
        "left": max(0, len(norm.standings) - DRAWN),
    }


def _line(row: Standing | PublishedRow) -> page.Context:
    """A row of the table as plain values; shares in per cent."""
    if isinstance(row, PublishedRow):
        about = ", ".join(part for part in (row.architecture, row.venue) if part)
        return {
            "published": True, "rank": "", "sort": 10**6, "range": "", "name": row.name, "about": about, "accuracy": 100 * row.accuracy, "interval": "",
            "clean": 100 * row.clean, "clean_interval": "", "attacks": row.by + (", called unreliable" if row.unreliable else ""), "n": "",
            "bar": _bar(row.accuracy, None), "warnings": "", "runs": "RobustBench",
        }  # fmt: skip
    entry = row.entry
    return {
        "published": False, "rank": rank_text(row), "sort": 10**5 if row.rank is None else row.rank, "range": span_text(row), "name": entry.name, "about": "",
        "accuracy": 100 * row.accuracy.value, "interval": _interval(row.accuracy), "clean": 100 * row.clean.value,
        "clean_interval": _interval(row.clean), "attacks": ", ".join(row.attacks), "n": f"{row.n:,}" + ("" if entry.complete else f" of {entry.examples:,}"),
        "bar": _bar(row.accuracy.value, row.accuracy), "warnings": ", ".join(entry.warnings),
        "runs": ", ".join(without_paths(folder) for folder in entry.folders()),
    }  # fmt: skip


def _interval(share: statistics.Estimate) -> str:
    return f"{100 * share.low:.1f}{DASH}{100 * share.high:.1f}"


def _bar(value: float, interval: statistics.Estimate | None) -> Markup:
    """A value from 0 to 100 % with its interval, to be compared down a column; hollow without one."""
    parts = Markup('<line class="grid" x1="4" x2="156" y1="9" y2="9"/>')
    if interval is not None:
        parts += Markup('<line x1="{:.1f}" x2="{:.1f}" y1="9" y2="9"/>').format(4 + 152 * interval.low, 4 + 152 * interval.high)
    parts += Markup('<circle cx="{:.1f}" cy="9" r="3.4"/>').format(4 + 152 * value)
    kind = "span c0" if interval is not None else "span plain hollow"
    return Markup('<svg class="{}" viewBox="0 0 160 18" width="160" height="18" aria-hidden="true">{}</svg>').format(kind, parts)


def _panel(norm: NormBoard) -> Panel:
    """Worst case over all attacks by radius, of the first models."""
    series = []
    for place, row in enumerate(norm.standings[:DRAWN]):
        entry = row.entry
        radii = [Fraction(0), *entry.radii]
        right = [int(entry.held(radius).sum()) for radius in radii]
        n = len(entry.index)
        low, high = statistics.wilson(right, n)
        series.append(Series(
            entry.name, SeriesStyle(place), tuple(format_radius(radius, norm.norm) for radius in radii), tuple(count / n for count in right),
            tuple(map(float, low)), tuple(map(float, high)), (n,) * len(radii), {"model": entry.name}, norm.norm,
        ))  # fmt: skip
    return Panel(f"board-{norm.norm}", f"Worst case, {NORM_TITLES[norm.norm]}", "worst-case accuracy", tuple(series))


CSV_COLUMNS = (
    "data", "norm", "eps", "rank", "rank_last", "tied", "model", "source", "worst_case_accuracy", "ci_low", "ci_high", "clean_accuracy",
    "clean_ci_low", "clean_ci_high", "n", "attacks", "runs", "fingerprint", "warnings",
)  # fmt: skip


def records(board: Board) -> Iterator[dict[str, Any]]:
    """Every row as plain values, by `CSV_COLUMNS`; None where there is none."""
    for norm in board.norms:
        where = {"data": board.data.name, "norm": norm.norm, "eps": norm.eps}
        for row in lines(norm):
            if isinstance(row, PublishedRow):
                yield dict.fromkeys(CSV_COLUMNS) | where | {
                    "model": row.name, "source": "published", "worst_case_accuracy": row.accuracy, "clean_accuracy": row.clean,
                    "attacks": [row.by], "runs": ["RobustBench"], "warnings": ["unreliable"] if row.unreliable else [], "tied": False,
                }  # fmt: skip
            else:
                yield where | {
                    "rank": row.rank, "rank_last": row.last, "tied": row.tied, "model": row.entry.name, "source": "records",
                    "worst_case_accuracy": row.accuracy.value, "ci_low": row.accuracy.low, "ci_high": row.accuracy.high,
                    "clean_accuracy": row.clean.value, "clean_ci_low": row.clean.low, "clean_ci_high": row.clean.high, "n": row.n,
                    "attacks": list(row.attacks), "runs": list(row.entry.folders()), "fingerprint": row.entry.fingerprint,
                    "warnings": list(row.entry.warnings),
                }  # fmt: skip


def board_csv(board: Board) -> str:
    """One line a model and norm; lists are joined by semicolons, and names that a spreadsheet would run are quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records(board):
        values = (";".join(value) if isinstance(value, list) else value for value in (record[name] for name in CSV_COLUMNS))
        writer.writerow([inert(value) if isinstance(value, str) else value for value in values])
    return buffer.getvalue()


def board_json(board: Board) -> str:
    """The whole board: data, the rule, notes, and its rows."""
    content = {
        "schema": SCHEMA,
        "data": vars(board.data),
        "rule": RULE,
        "runs": list(board.folders),
        "notes": list(board.notes),
        "norms": [{"norm": norm.norm, "eps": norm.eps, "notes": notes(norm)} for norm in board.norms],
        "rows": list(records(board)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
