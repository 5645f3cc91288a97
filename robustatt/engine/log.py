"""`log.jsonl`: what each Cell cost when it was computed, one line a Cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from robustatt.engine.scheduler import CellCost
from robustatt.files import append_line
from robustatt.plan import Cell

FILE = "log.jsonl"
SUMS = ("seconds", "gradients", "forwards")


def note(out: Path, cell: Cell, spent: CellCost) -> None:
    """Append what a Cell cost, one line in one write, so that sweeps may share the file."""
    entry = {
        "key": cell.key, "cell": str(cell), "model": cell.model, "attack": cell.attack.name,
        "examples": cell.stop - cell.start, "seconds": round(spent.seconds, 3), "gradients": spent.gradients,
        "forwards": spent.forwards, "batch_size": spent.batch_size, "peak_bytes": spent.peak_bytes, "worker": spent.worker,
    }  # fmt: skip
    append_line(out / FILE, json.dumps(entry))


def costs(out: Path, keys: set[str]) -> Mapping[str, float]:
    """What the Cells of a plan cost when they were computed, summed."""
    latest = _latest(out, keys)
    return {name: sum(entry[name] for entry in latest.values()) for name in SUMS}


def seconds(out: Path, keys: set[str]) -> Mapping[str, float]:
    """The seconds that each of these Cells took on one worker, by key, as far as that is known."""
    return {key: entry["seconds"] for key, entry in _latest(out, keys).items()}


def _latest(out: Path, keys: set[str]) -> dict[str, dict[str, float]]:
    latest: dict[str, dict[str, float]] = {}
    for line in (out / FILE).read_text(encoding="utf-8").splitlines() if (out / FILE).exists() else []:
        try:
            entry = json.loads(line)
            if entry["key"] in keys:
                latest[entry["key"]] = {name: float(entry[name]) for name in SUMS}
        except (ValueError, KeyError, TypeError):
            continue
    return latest
