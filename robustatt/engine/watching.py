"""What the records of a folder say so far, while a sweep runs or after it. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustatt.engine.run_outcomes import read_run
from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.plan import BoundPlan
from robustatt.results.confidence_sequence import anytime
from robustatt.results.outcomes import Outcomes
from robustatt.results.part import in_percent
from robustatt.results.precision import rounds_said
from robustatt.results.summary import SCHEMA, Stopped, Summary
from robustatt.results.summary_file import read_summary


@dataclass(frozen=True)
class SweepSoFar:
    """A sweep so far: how far it is, accuracy by radius with a column for each curve that has an example, what is wrong."""

    said: str
    columns: list[str]
    rows: list[list[str]]
    findings: tuple[str, ...]
    ended: bool


def look(directory: Path) -> SweepSoFar:
    """Read what is whole in the folder of a sweep. Intervals hold however often one looks (`confidence_sequence.anytime`).

    Raises:
        InputError: it is not the folder of a sweep, or a file cannot be read.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder: give the folder a sweep writes to (its --out)")
    bound = BoundPlan.read(directory)
    run = read_run(directory, bound, none_yet=True)
    plan = Summary.parse({"schema": SCHEMA, "plan": bound.describe()}, "the plan").plan
    if bound.rounds is not None:
        stopped = _stopped(directory, bound)
        said, ended = rounds_said(plan, stopped), stopped is not None
    else:
        cells = [cell.stop - cell.start for cell in bound.cells()]
        done, of = sum(outcomes.index.size for outcomes in run.outcomes), sum(cells)
        ended = done == of
        order = "as they were drawn" if bound.plan.sample else "in the order of the data: not a random sample"
        said = f"All {bound.examples:,} examples are done." if ended else f"{done:,} of {of:,} attacked so far, {order}."
    damaged = tuple(line for line in run.findings if "missing" not in line)
    return SweepSoFar(said, *_table(run.outcomes), damaged, ended)


def _stopped(directory: Path, bound: BoundPlan) -> Stopped | None:
    """Why a sweep in rounds stopped, if its summary says so of the very rounds that are there."""
    try:
        summary = read_summary(directory)
    except InputError:
        return None
    return summary.stopped if summary.plan.as_dict() == bound.describe() else None


def _table(layout: Sequence[Outcomes]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of accuracy by radius; the head of a curve says of how many examples it is."""
    texts = {parse_radius(eps): eps for outcomes in layout for eps in outcomes.eps}
    columns = [f"{outcomes.model} {outcomes.attack} ({outcomes.index.size:,})" for outcomes in layout]
    points = []
    for outcomes in layout:
        right, n = outcomes.correct.sum(axis=0), outcomes.present.sum(axis=0)
        low, high = anytime(right, n)
        cells = [in_percent(*numbers) for numbers in zip(right / n, low, high, strict=True)]
        points.append(dict(zip(map(parse_radius, outcomes.eps), cells, strict=True)))
    rows = [[texts[eps] if eps else "clean", *(by_radius.get(eps, "-") for by_radius in points)] for eps in sorted(texts)]
    return ["eps", *columns], rows
