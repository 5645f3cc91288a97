"""Relative paths in a plan file: they are meant from its own folder, and otherwise from the working folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustatt.data import SOURCES
from robustatt.plan.entries import Document

PATH_KEYS = ("data", "data_root", "class_names")


def located(document: Document, plan: Path, say: Callable[[str], None]) -> Document:
    """The document of a plan file with every path that exists beside the file made a path from the working folder.

    `say` is told where that changes what is read: where the working folder has something of that name too.
    """

    def beside(value: Any) -> Any:
        if not isinstance(value, str) or not value or value in SOURCES or Path(value).is_absolute():
            return value
        there = plan.parent / value
        if not there.exists() or plan.parent.resolve() == Path.cwd():
            return value
        if Path(value).exists() and not there.samefile(value):
            say(f"plan {plan}: {value} is taken from the plan's folder ({there}), not from the working folder")
        return str(there)

    found = dict(document)
    for key in PATH_KEYS:
        if key in found:
            found[key] = beside(found[key])
    if isinstance(found.get("attacks"), list):
        found["attacks"] = [beside(entry) if str(entry).endswith(".toml") else entry for entry in found["attacks"]]
    for key in ("models", "surrogates"):
        if isinstance(found.get(key), list):
            found[key] = [
                {**entry, "weights": beside(entry["weights"])} if isinstance(entry, dict) and "weights" in entry else entry
                for entry in found[key]
            ]
    return found
