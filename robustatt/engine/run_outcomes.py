"""The outcomes of a results folder, read from its records alone and checked as `evidence` does, without a summary.

For commands that read many folders: of each file only the columns that accuracy needs are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustatt.engine.cell_rows import OUTCOME_COLUMNS, CellGrid, CellRows, grid_of
from robustatt.engine.evidence import cells_findings
from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError
from robustatt.files import refuse_link
from robustatt.plan import BoundPlan, Cell
from robustatt.results.outcomes import Outcomes
from robustatt.results.records import Store
from robustatt.results.summary import HealthNote
from robustatt.results.summary_file import SUMMARY_FILE, read_warnings

READERS = 4
"""Threads: reading, hashing and decoding let go of the interpreter."""


@dataclass(frozen=True)
class RunOutcomes:
    """What the records of a folder say of each example, model by model and attack by attack.

    `findings` are what does not agree in the folder, a line each. `warnings` are the health warnings that its summary.json holds:
    what was found of a model before its records were written is nowhere else.
    """

    folder: Path
    bound: BoundPlan
    outcomes: tuple[Outcomes, ...]
    findings: tuple[str, ...]
    warnings: tuple[HealthNote, ...]


def read_run(directory: Path, bound: BoundPlan, none_yet: bool = False) -> RunOutcomes:
    """Read the records of a results folder with that plan, changing nothing in it.

    Raises:
        InputError: a file cannot be read, or no Cell is computed yet, unless `none_yet` is right.
    """
    refuse_link(directory / "records", "remove the link, or sweep with --records file://...")
    store = Store(bound.records or directory / "records", read_only=True)
    cells = list(bound.cells())
    known = bound.plan.positions_are_indices

    def grid(cell: Cell, key: str) -> CellGrid | str | None:
        table = None if key in absent else store.read_columns(key, OUTCOME_COLUMNS)
        return None if table is None else grid_of(CellRows.of_table(table), cell, known)

    keys = [cell.key for cell in cells]
    absent = store.absent(keys)
    with ThreadPoolExecutor(READERS) as pool:
        grids = list(zip(cells, pool.map(grid, cells, keys), strict=True))
    whole = [(cell, found) for cell, found in grids if isinstance(found, CellGrid)]
    if not whole and not none_yet:
        raise InputError(f"{directory}: no Cell of this sweep is computed yet: run its command again to resume it")
    wrong = [f"{cell} ({found})" for cell, found in grids if isinstance(found, str)]
    outcomes = tuple(_outcomes(whole))
    findings = [*cells_findings(cells, absent, store.damaged, wrong, "cells"), *_contradictions(outcomes)]
    warnings, unread = _warnings(directory)
    return RunOutcomes(directory, bound, outcomes, (*findings, *unread), warnings)


def _outcomes(cells: Sequence[tuple[Cell, CellGrid]]) -> Iterator[Outcomes]:
    kinds: dict[tuple[str, str], list[tuple[Cell, CellGrid]]] = {}
    for cell, grid in cells:
        kinds.setdefault(cell.kind, []).append((cell, grid))
    for (model, attack), parts in kinds.items():
        radii = sorted(parts[0][0].radii, key=parse_radius)
        index, label, clean, adversarial = (
            np.concatenate([getattr(grid, name) for _, grid in parts]) for name in ("index", "label", "clean_pred", "adv_pred")
        )
        order = np.argsort(index, kind="stable")
        if (np.diff(index[order]) == 0).any():
            raise InputError(f"records hold an example twice for {model} under {attack}")
        present = np.ones(adversarial.shape, dtype=bool)
        yield Outcomes(model, attack, (CLEAN, *radii), index[order], label[order], clean[order], present, adversarial[order])


def _contradictions(outcomes: Sequence[Outcomes]) -> Iterator[str]:
    """Facts about an image that differ between Cells: its label, and what a model says of it unattacked."""
    first: dict[str, Outcomes] = {}
    for other in outcomes:
        whose = {"label": first.setdefault("", other), "clean_pred": first.setdefault(other.model, other)}
        for column, one in whose.items():
            mine, theirs = one.align(other)
            several = int((getattr(one, column)[mine] != getattr(other, column)[theirs]).sum())
            if several:
                yield f"the records contradict each other: {several} images have more than one {column} ({other.model} under {other.attack})"


def _warnings(directory: Path) -> tuple[tuple[HealthNote, ...], list[str]]:
    """The warnings of summary.json, and a line if there are none to read."""
    unknown = "warnings about its models are unknown"
    if not (directory / SUMMARY_FILE).exists():
        return (), [f"{SUMMARY_FILE} is missing: {unknown}"]
    try:
        return tuple(read_warnings(directory)), []
    except InputError as problem:
        return (), [f"{problem}: {unknown}"]
