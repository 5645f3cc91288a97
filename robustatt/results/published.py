"""Rows of published leaderboards: RobustBench's ``model_info/<dataset>/<Linf|L2>/<model>.json``, or a list of such tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustatt.eps import parse_radius
from robustatt.errors import InputError

NORMS = {"linf": "linf", "l2": "l2", "l1": "l1"}
"""Threat models that have a radius, by RobustBench's name in lower case; its corruptions have none."""

CORRUPTIONS = ("corruptions", "corruptions_3d")

ACCURACIES = {"external": "an adaptive attack", "autoattack_acc": "AutoAttack", "reported": "the authors' own attack"}
"""Keys of robust accuracy, the first that is there counts, as on the leaderboard; and what it was measured by."""


@dataclass(frozen=True)
class PublishedRow:
    """A published result, accuracies as shares. Which images it got right is not published, so nothing can be tested."""

    name: str
    data: str
    norm: str
    radius: Fraction
    clean: float
    accuracy: float
    by: str
    title: str = ""
    architecture: str = ""
    venue: str = ""
    unreliable: bool = False


def read_published(path: Path) -> list[PublishedRow]:
    """The rows of a JSON file (one table, a list of them, or tables by model name) or of all such files below a folder.

    Corruption benchmarks are left out: they have no radius.

    Raises:
        InputError: no such file, not JSON, no rows in it, or a row that lacks what is needed, naming it.
    """
    if not path.exists():
        raise InputError(
            f"--robustbench {path}: no such file or folder: give a JSON file of RobustBench's model_info, or a folder of them"
        )
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    tables = [(file, name, table) for file in files for name, table in _tables(file)]
    if not tables:
        raise InputError(
            f"--robustbench {path}: no tables of models in it: give a JSON file of RobustBench's model_info, or a folder of them"
        )
    return [row for file, name, table in tables if (row := _row(file, name, table)) is not None]


def _tables(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"--robustbench {file}: cannot be read ({problem.strerror})") from None
    except (ValueError, RecursionError):
        raise InputError(f"--robustbench {file}: not JSON") from None
    if isinstance(content, dict) and "clean_acc" in content:
        named = [(str(content.get("model_name") or file.stem), content)]
    elif isinstance(content, dict):
        named = list(content.items())
    elif isinstance(content, list):
        named = [
            (str(entry.get("model_name") or entry.get("name") or ""), entry) if isinstance(entry, dict) else ("", entry)
            for entry in content
        ]
    else:
        named = [("", content)]
    for number, (name, table) in enumerate(named, 1):
        if not isinstance(table, dict) or not name:
            raise InputError(
                f'--robustbench {file}: entry {number} is not a table of a model with a name, such as {{"model_name": ..., "clean_acc": ...}}'
            )
        yield name, table


def _row(file: Path, name: str, table: Mapping[str, Any]) -> PublishedRow | None:
    where = f"--robustbench {file}: {name}"
    threat = _threat(file, table)
    if threat in CORRUPTIONS or any(key.startswith("corruptions_") for key in table):
        return None
    eps = str(table.get("eps", ""))
    if threat is None:
        threat = "linf" if "/255" in eps else ""
    if threat not in NORMS:
        raise InputError(f'{where}: no norm is known: put the file in a folder Linf or L2, or give it "threat_model": "Linf"')
    key = next((key for key in ACCURACIES if table.get(key) not in (None, "")), None)
    if key is None:
        raise InputError(f"{where}: no robust accuracy: one of {', '.join(ACCURACIES)} is needed")
    radius = _radius(eps, where)
    data = table.get("dataset")
    if not isinstance(data, str) or not data:
        raise InputError(f'{where}: no dataset: "dataset": "cifar10" is needed, say')
    title, architecture, venue = (str(table.get(word) or "") for word in ("name", "architecture", "venue"))
    clean, accuracy = (_share(table.get(word), f"{where}: {word}") for word in ("clean_acc", key))
    return PublishedRow(
        name,
        data,
        NORMS[threat],
        radius,
        clean,
        accuracy,
        ACCURACIES[key],
        title,
        architecture,
        venue,
        table.get("unreliable") is True,
    )


def _radius(text: str, where: str) -> Fraction:
    """A radius, exact; a decimal that stands for steps of 1/255 becomes them."""
    try:
        radius = parse_radius(text)
    except InputError as problem:
        raise InputError(f"{where}: eps: {problem}") from None
    steps = Fraction(round(radius * 255), 255)
    return steps if abs(steps - radius) < 1e-6 else radius


def _threat(file: Path, table: Mapping[str, Any]) -> str | None:
    """The threat model in lower case, as the table or else the nearest folder says it."""
    said = table.get("threat_model") or table.get("norm")
    if isinstance(said, str):
        return said.lower()
    return next((part.lower() for part in reversed(file.absolute().parent.parts) if part.lower() in (*NORMS, *CORRUPTIONS)), None)


def _share(value: Any, where: str) -> float:
    """Per cent, as the leaderboard writes it, to a share."""
    try:
        share = float(value) / 100 if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(f"{where} is {str(value)[:40]!r}: per cent from 0 to 100 is needed")
    return share
