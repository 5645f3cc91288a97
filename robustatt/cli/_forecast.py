"""`robustatt sweep --dry-run`: what a sweep will cost, and how far its limits let it go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustatt.cli._terminal import counted, print_table
from robustatt.progress import duration

if TYPE_CHECKING:
    from pathlib import Path

    from robustatt.data import Dataset
    from robustatt.engine.forecast import Forecast
    from robustatt.engine.models import Loader
    from robustatt.engine.options import ExecutorOptions
    from robustatt.plan import Cell, Limits, Plan


def print_forecast(plan: Plan, dataset: Dataset, load: Loader, folder: Path, execution: ExecutorOptions) -> None:
    """Cost by model and attack, then what all of it takes on this machine and on the requested workers."""
    from robustatt.engine import sweep as engine
    from robustatt.engine.forecast import forecast

    with engine.bound(plan.at_once(), dataset, load, folder, execution) as sweep:
        cost, bound = forecast(sweep, _say_measured), sweep.bound
    heads = ["model", "attack", "cells", "gradients", "forwards", "time of one worker", "measured on"]
    print_table(heads, [
        [kind.model, kind.attack, f"{kind.cells:,}", f"{kind.gradients:,.0f}", f"{kind.forwards:,.0f}",
         duration(kind.seconds), f"{kind.piloted} examples"]
        for kind in cost.kinds
    ])  # fmt: skip
    ready = f", {cost.ready} more found on disk" if cost.ready else ""
    print(
        f"{counted(round(cost.total('cells')), 'cell')}{ready}: {cost.total('gradients'):,.0f} gradients, "
        f"{cost.total('forwards'):,.0f} forwards, {duration(cost.total('seconds'))} on one worker"
    )
    start = f", {duration(cost.start_seconds)} of it to start them" if cost.start_seconds else ""
    print(
        f"With {counted(cost.workers, 'worker')}: {duration(cost.seconds)}{start}; "
        f"peak memory of all processes {cost.peak_bytes / 2**30:.1f} GiB. Nothing was written."
    )
    if plan.limits is not None:
        print(" ".join(["That is all of it.", *_within(plan.limits, cost, bound.requested)]))


def _say_measured(cell: Cell, examples: int) -> None:
    print(f"measuring {cell.model} under {cell.attack.name} on {counted(examples, 'example')} ...", file=sys.stderr)


def _within(limits: Limits, cost: Forecast, examples: int) -> Iterator[str]:
    """How many examples fit into the time, and how many precision needs at the most."""
    from robustatt.results.precision import enough_examples

    if limits.seconds is not None and cost.seconds > cost.start_seconds:
        share = (limits.seconds - cost.start_seconds) / (cost.seconds - cost.start_seconds)
        yield f"About {int(min(1.0, max(0.0, share)) * examples):,} of {examples:,} examples fit into --time {limits.time}."
    if limits.half_width is not None:
        yield f"--until {limits.until} needs {min(examples, enough_examples(limits.half_width)):,} examples at the most."
    if limits.against is not None:
        yield "--against ends it as soon as the verdict is known."
