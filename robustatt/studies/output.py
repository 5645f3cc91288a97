"""What the studies leave in a folder, beside figures: rows as Parquet, pages as text, and a typed JSON document."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
from pydantic import ValidationError

from robustatt.errors import InputError, first_line, first_mistake
from robustatt.files import write_atomically
from robustatt.results.part import Part

Document = TypeVar("Document", bound=Part)


def write_files(folder: Path, files: Mapping[str, pd.DataFrame | str | Part]) -> list[Path]:
    """Write each file whole or not at all, in the order given; their paths.

    Raises:
        OSError: the folder cannot be written to.
    """
    for name, content in files.items():
        write_atomically(folder / name, _encoded(content))
    return [folder / name for name in files]


def _encoded(content: pd.DataFrame | str | Part) -> bytes:
    if isinstance(content, pd.DataFrame):
        buffer = io.BytesIO()
        content.to_parquet(buffer, index=False)
        return buffer.getvalue()
    text = content if isinstance(content, str) else json.dumps(content.as_dict(), indent=1, allow_nan=False) + "\n"
    return text.encode()


def read_document(kind: type[Document], path: Path, command: str) -> Document:
    """The document that `command` wrote; InputError of one line if it is missing, damaged or not as this version writes it."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        reason = ": ".join(filter(None, first_mistake(problem)))
    except OSError as problem:
        reason = first_line(problem)
    raise InputError(f"{path} cannot be read ({reason}): run {command} again")
