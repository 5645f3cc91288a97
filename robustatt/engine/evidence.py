"""A results folder checked against its own records: everything shown is computed from them, and disagreements are reported.

Nothing in the folder is changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from robustatt.engine.cell_rows import CellRows, grid_of
from robustatt.errors import InputError
from robustatt.files import refuse_link
from robustatt.health.records import check_records
from robustatt.health.warning import UNEXPLAINED
from robustatt.plan import BoundPlan, Cell
from robustatt.results.aggregate import summarise
from robustatt.results.records import Store, record_folders
from robustatt.results.summary import HealthNote, Summary
from robustatt.results.summary_file import SUMMARY_FILE, as_stored, read_summary

TOLERANCE = 1e-9
"""How far a number of summary.json may lie from the one that the records give: both are computed in float64."""

DERIVED = (
    "curves",
    "drift",
    "drift_predicts_fooling",
    "differences",
    "confusion",
    "full_strength",
    "corruption_means",
    "transfer",
)
"""Keys of summary.json that follow from the records alone."""

MAX_NAMED = 3
"""Cells or warnings that a finding names."""


@dataclass(frozen=True)
class ResultsFolder:
    """What a sweep left in a folder, its summary computed from the records, and what does not agree, a line each."""

    bound: BoundPlan
    records: pd.DataFrame
    drift: pd.DataFrame
    """The rows of the drift sample, of attacks at full strength."""
    transfer: pd.DataFrame
    """The rows of examples that were crafted on surrogates."""
    summary: Summary
    findings: tuple[str, ...]
    whole: int
    """Cells whose records are there, whole and of the right rows."""
    cells: int

    def shown(self) -> Summary:
        """The summary with what a reader has to know of the folder: what does not agree, and that it is not finished."""
        unfinished = ""
        if self.whole < self.cells:
            unfinished = f"{self.whole} of {self.cells} cells are there: the sweep is still running, or was interrupted."
        elif self.summary.plan.rounds is not None and self.summary.stopped is None:
            unfinished = "The sweep is still running, or was interrupted: these are the examples of the rounds that are whole."
        return self.summary.model_copy(update={"integrity": list(self.findings), "unfinished": unfinished})


def read_folder(directory: Path) -> ResultsFolder:
    """Read a results folder, changing nothing in it.

    Raises:
        InputError: there is no plan, or it cannot be read.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder: give the folder a sweep wrote (its --out)")
    bound = BoundPlan.read(directory)
    for folder in record_folders():
        refuse_link(directory / folder, "remove the link, or sweep with --records file://...")
    store = Store(bound.records or directory / "records", read_only=True)
    cells = list(bound.cells())
    records, whole, findings = _read_cells(store, cells, "cells", bound.plan.positions_are_indices)
    sampled = list(bound.cells("drift"))
    drift, at_strength, apart = _read_cells(store, sampled, "cells at full strength", False)
    crafted = list(bound.cells("transfer"))
    transfer, more, findings_there = _read_cells(store, crafted, "cells of surrogates", bound.plan.positions_are_indices)
    apart += findings_there
    findings += _contradictions(pd.concat([records, transfer]) if more else records)
    summary, disagreements = _summary(directory, bound, records, drift, transfer)
    incomplete = whole < len(cells) or apart  # a summary of fewer records is another one
    said = [*findings, *apart, *(() if incomplete else disagreements)]
    count = len(cells) + len(sampled) + len(crafted)
    return ResultsFolder(bound, records, drift, transfer, summary, tuple(said), whole + at_strength + more, count)


def _read_cells(store: Store, cells: Sequence[Cell], noun: str, indices_known: bool) -> tuple[pd.DataFrame, int, list[str]]:
    """The records of those Cells that are whole, how many there are, and what is wrong with the others, a line each."""
    absent, damaged = store.absent(cell.key for cell in cells), len(store.damaged)
    frames, wrong = [], []
    for cell in cells:
        frame = store.read([cell.key])
        if len(frame):
            mistake = _misfit(frame, cell, indices_known)
            if mistake:
                wrong.append(f"{cell} ({mistake})")
            else:
                frames.append(frame)
    records = pd.concat(frames, ignore_index=True) if frames else store.read([])
    if "broken_by" in records:
        records["broken_by"] = records["broken_by"].fillna("")
    findings = cells_findings(cells, absent, store.damaged[damaged:], wrong, noun)
    return records, len(frames), findings


def _misfit(frame: pd.DataFrame, cell: Cell, indices_known: bool) -> str:
    """Why records are not those of a Cell; empty if they are. `indices_known`: positions and indices are the same."""
    if not cell.targets:
        grids = [grid_of(CellRows.of_frame(frame), cell, indices_known)]
    else:
        if "surrogate" not in frame or set(frame["surrogate"]) != {cell.model}:
            return "another surrogate"
        if set(frame["model"]) != set(dict(cell.targets)):
            return "other models"
        grids = [
            grid_of(CellRows.of_frame(rows), replace(cell, model=str(model), targets=()), indices_known)
            for model, rows in frame.groupby("model")
        ]
    return next((grid for grid in grids if isinstance(grid, str)), "")


def cells_findings(
    cells: Sequence[Cell], absent: set[str], damaged: Sequence[PurePath], wrong: Sequence[str], noun: str
) -> list[str]:
    """What is wrong with the records of some Cells, a line each: keys without a file, altered files, rows of something else."""
    names = {
        "missing": [str(cell) for cell in cells if cell.key in absent] if absent else [],
        "altered or cut short since they were written": [path.name for path in damaged],
        "not what their names say": [*wrong],
    }
    return [line for what, found in names.items() for line in _cells_finding(what, found, f"{len(cells)} {noun}")]


def agrees(summary: Summary, records: pd.DataFrame, drift: pd.DataFrame, transfer: pd.DataFrame, bound: BoundPlan) -> bool:
    """Whether every number of a stored summary that follows from the records is what they give."""
    plan = bound.describe()
    found = [entry.as_dict() for entry in check_records(records, bound.plan.attacks, transfer)]
    computed = summarise(records, plan, {}, found, drift, transfer)
    return not _disagreement(computed, summary) and not _hidden_warnings(computed, summary)


def _cells_finding(what: str, names: list[str], of: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    verb = "is" if len(names) == 1 else "are"
    return [f"{len(names)} of {of} {verb} {what}, and left out: {', '.join(names[:MAX_NAMED])}{more}"]


def _contradictions(records: pd.DataFrame) -> list[str]:
    """Facts about an image that differ between Cells: its label, and what a model says of it unattacked."""
    findings = []
    for column, keys in (("label", ["index"]), ("clean_pred", ["model", "index"])):
        several = records.groupby(keys)[column].nunique() > 1
        if several.any():
            findings.append(f"the records contradict each other: {int(several.sum())} images have more than one {column}")
    return findings


def _summary(
    directory: Path, bound: BoundPlan, records: pd.DataFrame, drift: pd.DataFrame, transfer: pd.DataFrame
) -> tuple[Summary, list[str]]:
    """The summary of the records, with provenance and warnings of the stored one, and where the two disagree."""
    plan = bound.describe()
    found = [entry.as_dict() for entry in check_records(records, bound.plan.attacks, transfer)]
    computed = summarise(records, plan, {}, found, drift, transfer)
    path = directory / SUMMARY_FILE
    if not path.exists():
        return computed, [f"{SUMMARY_FILE} is missing: what it alone holds (where the numbers come from, warnings about the models) is unknown"]  # fmt: skip
    try:
        stored = read_summary(path)
    except InputError as problem:
        return computed, [f"{problem}: the records are used"]
    if plan != stored.plan.as_dict():
        return computed, [f"{SUMMARY_FILE} is of another plan than plan.toml: the records of plan.toml are used"]
    disagreements = [*_disagreement(computed, stored), *_hidden_warnings(computed, stored)]
    known = {_identity(note) for note in stored.health}
    notes = [*stored.health, *(note for note in computed.health if _identity(note) not in known)]
    derived = {name: getattr(computed, name) for name in DERIVED if name in computed.model_fields_set | stored.model_fields_set}
    return stored.model_copy(update={**derived, "health": notes}), disagreements


def _disagreement(computed: Summary, stored: Summary) -> list[str]:
    """The first number of the stored summary that the records do not give, and how many more there are."""
    mine, theirs = (as_stored(summary.as_dict()) for summary in (computed, stored))
    differences = [line for key in DERIVED for line in _differences(mine.get(key, []), theirs.get(key, []), key)]
    if not differences:
        return []
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    return [f"{SUMMARY_FILE} does not agree with the records: {differences[0]}{more}; the records are used"]


def _differences(computed: Any, stored: Any, where: str) -> Iterator[str]:
    if isinstance(computed, dict) and isinstance(stored, dict):
        where = _title(computed) or where
        for key in computed.keys() | stored.keys():
            place = where if key == "points" else f"{key} of {where}"
            yield from _differences(computed.get(key), stored.get(key), place)
    elif isinstance(computed, list) and isinstance(stored, list) and len(computed) == len(stored):
        for i, (mine, theirs) in enumerate(zip(computed, stored, strict=True)):
            place = f"{where} at {mine['eps']}" if isinstance(mine, dict) and set(mine) >= {"eps", "n"} else f"{where} {i + 1}"
            yield from _differences(mine, theirs, place)
    elif isinstance(computed, float | int) and isinstance(stored, float | int):
        if not math.isclose(computed, stored, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {computed:.6g} in the records and {stored:.6g} there"
    elif computed != stored:
        yield f"{where} is {_brief(computed)} in the records and {_brief(stored)} there"


def _title(entry: Mapping[str, object]) -> str:
    """What a row of the summary is about; empty for a point of a curve, which its place names."""
    if "model" not in entry:
        return ""
    radius = f" at {entry['eps']}" if "eps" in entry else ""
    level = f" {entry['metric']} {entry['level']}" if "metric" in entry else ""
    made = f" crafted on {entry['surrogate']}" if "surrogate" in entry else ""
    return f"{entry['model']} under {entry.get('attack', '')}{made}{radius}{level}"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{len(value)} entries" if isinstance(value, list) else f"{text[:37]}..."


def _hidden_warnings(computed: Summary, stored: Summary) -> list[str]:
    """Warnings that follow from the records and are not in the stored summary."""
    known = {_identity(note) for note in stored.health}
    explained = {note.model for note in stored.health}
    hidden = [
        note for note in computed.health
        if _identity(note) not in known and not (note.code == UNEXPLAINED and note.model in explained)
    ]  # fmt: skip
    if not hidden:
        return []
    names = ", ".join(f"{note.code} ({note.model} {note.attack})".replace(" )", ")") for note in hidden[:MAX_NAMED])
    return [f"{SUMMARY_FILE} lacks {len(hidden)} of the warnings that the records give: {names}"]


def _identity(note: HealthNote) -> tuple[str, str]:
    return note.code, note.model or ""
