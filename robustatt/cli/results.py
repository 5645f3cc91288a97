"""Reading the folder that a sweep wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustatt.cli.terminal import warn
from robustatt.errors import InputError


def read_results(directory: Path, *, none_yet: bool = False) -> tuple[Any, dict[str, Any]]:
    """The records and the summary of an output folder; records may be fewer than planned, and none if `none_yet`."""
    from robustatt.files import refuse_link
    from robustatt.plan import BoundPlan
    from robustatt.records import Store
    from robustatt.summary import read_summary, summarise

    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder: give the folder a sweep wrote (its --out)")
    bound = BoundPlan.read(directory)
    refuse_link(directory / "records", "remove the link, or sweep with --records file://...")
    store = Store(bound.records or directory / "records")
    records = store.read(cell.key for cell in bound.cells())
    for path in store.moved_aside:
        warn(f"records {path.name} were damaged and moved aside: run the sweep again to complete them")
    if not len(records) and not none_yet:
        raise InputError(
            f"{directory}: no Cell of this sweep is computed yet: type its command again, which goes on from there"
        )
    if (directory / "summary.json").exists() and not store.moved_aside:
        summary = read_summary(directory / "summary.json")
        if summary["plan"] == bound.describe():
            return records, summary
    return records, summarise(records, bound.describe(), {}, [])
