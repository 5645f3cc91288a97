"""Labels in the forms that people have them in, as class indices; and files of class names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from robustatt.errors import InputError, did_you_mean

Labels = Int64[Tensor, " n"]


def class_indices(labels: Any, classes: Sequence[str] | None = None) -> tuple[Labels, tuple[str, ...] | None]:
    """Labels as class indices, int64 ``(n,)``, and the classes' names where the labels themselves give them.

    Whole numbers of any type, also as text, one a row ``(n, 1)`` or one-hot ``(n, classes)``, are taken as they are
    meant. Names are numbered in the order of ``classes``, otherwise sorted by name, as class folders are.

    Raises:
        InputError: anything else; says what was given and what is needed.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else _array(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    elif values.ndim == 2 and _one_hot(values):
        values = values.argmax(1)
    if values.ndim != 1:
        raise InputError(f"labels have shape {values.shape}: (n,) is needed, one an image")
    if values.dtype == object:
        values = np.asarray(values.tolist()) if len({type(value) for value in values}) == 1 else values
    if values.dtype.kind in "US":
        return _named([str(value) for value in values.astype(str)], classes)
    if values.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, not {values.dtype}")
    return torch.from_numpy(values.astype(np.int64)), None


def _array(labels: Any) -> np.ndarray:
    try:
        items = [item.item() if isinstance(item, Tensor) and item.ndim == 0 else item for item in labels]
        return np.asarray(labels if isinstance(labels, np.ndarray) else items)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels must be integers, one per image, not a {type(labels).__name__}") from error


def _one_hot(values: np.ndarray) -> bool:
    return (
        values.dtype.kind in "iufb"
        and values.shape[1] > 1
        and bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())
    )


def _named(values: list[str], classes: Sequence[str] | None) -> tuple[Labels, tuple[str, ...] | None]:
    if classes is None and values and all(value.isascii() and value.isdecimal() for value in values):
        return torch.tensor([int(value) for value in values]), None
    names = tuple(sorted(set(values))) if classes is None else tuple(classes)
    places = {name: place for place, name in enumerate(names)}
    for index, value in enumerate(values):
        if value not in places:
            raise InputError(f"label {value!r} of image {index} is none of the classes: {did_you_mean(value, names)}")
    return torch.tensor([places[value] for value in values], dtype=torch.int64), names


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names in the order of a model's outputs: a text file with one a line, or a JSON list.

    Raises:
        InputError: no such file, no names, or one that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"--class-names {path}: cannot be read as text: give one class name a line") from problem
    names = _from_json(path, text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"--class-names {path} holds no names: give one a line, in the order of the model's outputs")
    for line, name in enumerate(names, 1):
        if not name:
            raise InputError(f"--class-names {path}: line {line} is empty")
        if names.index(name) != line - 1:
            raise InputError(f"--class-names {path}: class {name!r} stands in line {names.index(name) + 1} and {line}")
    return tuple(names)


def _from_json(path: Path, text: str) -> list[str]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"--class-names {path} is not a complete JSON list of names") from problem
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"--class-names {path}: a JSON list of names is needed, or one name a line")
    return names
