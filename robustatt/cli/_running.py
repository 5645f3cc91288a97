"""From a plan to its results, for every command that evaluates one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustatt.cli._terminal import warn
from robustatt.errors import InputError
from robustatt.progress import SweepBar

if TYPE_CHECKING:
    from pathlib import Path

    from robustatt.data import Dataset
    from robustatt.engine.models import Loader
    from robustatt.engine.options import ExecutorOptions
    from robustatt.engine.sweep import SweepOutcome
    from robustatt.plan import Plan


def prepared(wanted: Plan) -> tuple[Plan, Dataset, Loader]:
    """The plan with what its data decides, the data set, and how the models are found."""
    from robustatt.engine.sources import load_data, match_channels, model_loader

    dataset = load_data(wanted)
    plan, dataset, load = match_channels(wanted, dataset, model_loader(dataset))
    if wanted.channels is None and plan.channels == 1:
        print("Grey data and networks of one channel: evaluated on that channel (as --channels 1)")
    return plan, dataset, load


def evaluated(
    plan: Plan, dataset: Dataset, load: Loader, folder: Path, execution: ExecutorOptions, began: float | None = None
) -> SweepOutcome:
    """What a plan gives, with a bar, and a warning for records that had to be computed again.

    `began`: since when its time counts, by `time.monotonic`; now if None.
    """
    from robustatt.engine.budget import Budget
    from robustatt.engine.sweep import run

    budget = Budget.of(plan, began)
    with SweepBar(budget.seconds) as bar:
        outcome = run(plan, dataset, load, folder, bar, execution=execution, budget=budget)
    for path in outcome.moved_aside:
        warn(f"records {path.name} were damaged: moved aside and computed again")
    return outcome


def parse_batch_size(text: str | None) -> int | None:
    """``--batch-size``: None for ``auto``."""
    return _parse_count("--batch-size", text)


def parse_workers(text: str) -> int | None:
    """``--workers``: None for ``auto``."""
    return _parse_count("--workers", text)


def _parse_count(flag: str, text: str | None) -> int | None:
    if text is None or text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{flag} {text!r}: give auto or a whole number of at least 1")
    return int(text)
