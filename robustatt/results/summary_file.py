"""summary.json: written whole or not at all, and read with its schema checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.results.summary import SCHEMA, HealthNote, Summary

SUMMARY_FILE = "summary.json"


def write_summary(directory: Path, summary: Summary) -> Path:
    """Write ``directory/summary.json`` whole or not at all: temporary file, fsync, rename."""
    directory = Path(directory)
    text = json.dumps(_jsonable(summary.as_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / SUMMARY_FILE, text.encode())
    return directory / SUMMARY_FILE


def _jsonable(value: Any) -> Any:
    """The value with nothing that JSON does not know: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def as_stored(value: Any) -> Any:
    """What writing a value as JSON and reading it again gives."""
    return json.loads(json.dumps(_jsonable(value), allow_nan=False))


def read_summary(path: Path) -> Summary:
    """Read a summary file, or the one of a run's folder; raises InputError with one line on anything else."""
    path = Path(path) / SUMMARY_FILE if Path(path).is_dir() else Path(path)
    return Summary.parse(_content(path), str(path))


def read_warnings(directory: Path) -> list[HealthNote]:
    """The health warnings of a run's summary alone, which is quicker; InputError as `read_summary`."""
    path = Path(directory) / SUMMARY_FILE
    return Summary.parse({"schema": SCHEMA, "health": _content(path).get("health", [])}, str(path)).health


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = path.parent
        raise InputError(f"no {path.name} in {where}: run `robustatt sweep --out {where}` first") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a summary: broken JSON; run the sweep again to rewrite it") from None
    if not isinstance(content, dict) or "schema" not in content:
        raise InputError(f"{path} is not a summary: it has no 'schema'")
    if content["schema"] != SCHEMA:
        raise InputError(f"{path} has schema {content['schema']!r}; this version reads schema {SCHEMA}")
    return content
