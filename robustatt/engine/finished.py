"""A finished sweep, typed again, is answered from its summary: without torch, and without hashing weights and images anew.

A run that ends whole notes the plan and every file it rests on, by size and time of change. The note holds as long as none of
them has changed; when in doubt (another working folder, version or cache, a file that was young when it was noted and has other
content now, a network or data whose files are not all known) nothing is answered, and the sweep runs as ever, which costs seconds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustatt.data.cache import cache_folder
from robustatt.errors import InputError
from robustatt.files import tree, write_atomically
from robustatt.plan import BoundPlan, Plan
from robustatt.plan.cells import EVALUATION_VERSION
from robustatt.results.gallery import GALLERY_FILE
from robustatt.results.records import record_folders
from robustatt.results.summary import Summary
from robustatt.results.summary_file import SUMMARY_FILE, read_summary
from robustatt.version import __version__

FINISHED_FILE = "finished.json"
YOUNG = 2.0  # seconds: a file changed so shortly before it was noted may change again within the same time stamp
MOST_FILES = 100_000


@dataclass(frozen=True)
class Answer:
    """What a finished sweep found, and from how many Cells."""

    summary: Summary
    cells: int


def recall(plan: Plan, out: Path) -> Answer | None:
    """The answer of an earlier run of this very plan into this folder; None if anything may have changed since."""
    try:
        note = json.loads((out / FINISHED_FILE).read_text(encoding="utf-8"))
        if note["of"] != _identity(plan) or not all(_unchanged(*entry) for entry in note["files"]):
            return None
        return Answer(read_summary(out), int(note["cells"]))
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None


def remember(plan: Plan, out: Path) -> None:
    """Note that a run of the plan has ended whole in this folder, if all it rests on are files that are known."""
    files = [*_inputs(plan), *_results(out)] if _known(plan) else []
    if 0 < len(files) <= MOST_FILES:
        entries, bound = [_entry(file, time.time()) for file in files], BoundPlan.read(out)
        note = {"of": _identity(plan), "cells": len([*bound.cells(), *bound.cells("transfer")]), "files": entries}
        write_atomically(out / FINISHED_FILE, json.dumps(note).encode())
    else:
        (out / FINISHED_FILE).unlink(missing_ok=True)


def _identity(plan: Plan) -> list[Any]:
    text = json.dumps(plan.to_toml(), sort_keys=True, default=str)
    return [__version__, EVALUATION_VERSION, str(Path.cwd()), str(cache_folder()), hashlib.sha256(text.encode()).hexdigest()]


def _known(plan: Plan) -> bool:
    """Whether networks are the project's own, whose code is that of this version, and no published corruptions are read."""
    foreign = any(":" in entry.spec for entry in plan.loaded)
    return not foreign and not any(getattr(recipe, "images", None) for recipe in plan.attacks)


def _inputs(plan: Plan) -> Iterator[Path]:
    from robustatt.data.places import files_of
    from robustatt.models import bundled_path

    for entry in plan.loaded:
        yield Path(entry.weights) if entry.weights else bundled_path(entry.spec, plan.data)
    yield from files_of(plan.data, plan.data_root)
    if plan.class_names is not None:
        yield Path(plan.class_names)


def _results(out: Path) -> Iterator[Path]:
    yield out / SUMMARY_FILE
    yield out / "plan.toml"
    for folder in [*record_folders(), str(GALLERY_FILE.parent)]:
        yield from tree(out / folder)


def _entry(file: Path, now: float) -> list[Any]:
    status = file.stat()
    young = file.is_file() and now - status.st_mtime < YOUNG
    return [str(file), status.st_size, status.st_mtime_ns, _content(file) if young else None]


def _unchanged(name: str, size: int, changed: int, content: str | None) -> bool:
    status = Path(name).stat()
    same = Path(name).is_dir() or status.st_size == size
    return same and status.st_mtime_ns == changed and (content is None or _content(Path(name)) == content)


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
