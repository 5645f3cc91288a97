"""Labels in the forms that people have them in, as class indices; and classes in the order of a model's outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from robustatt.data.dataset import Dataset, Indices, Labels, Pixels
from robustatt.errors import InputError, did_you_mean


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
        raise InputError(f"labels are {values.dtype}: whole numbers are needed")
    return torch.from_numpy(values.astype(np.int64)), None


def _array(labels: Any) -> np.ndarray:
    try:
        items = [item.item() if isinstance(item, Tensor) and item.ndim == 0 else item for item in labels]
        return np.asarray(labels if isinstance(labels, np.ndarray) else items)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels are a {type(labels).__name__}: whole numbers are needed, one an image") from error


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
        raise InputError(f"--class-names {path} is no whole JSON list of names") from problem
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"--class-names {path}: a JSON list of names is needed, or one name a line")
    return names


def with_class_names(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The data set with its classes in the order of ``names``, which may hold more than the data has.

    Classes are found by name; a data set whose classes are mere numbers takes the names in that order.

    Raises:
        InputError: a class of the data is not among the names, or there are fewer names than classes.
    """
    return Relabelled(dataset, names, class_places(dataset, names))


def class_places(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """Where each class of a data set stands among names; see `with_class_names`."""
    places = {name: place for place, name in enumerate(names)}
    if _numbered(dataset) and not all(name in places for name in dataset.classes):
        if len(names) < len(dataset.classes):
            raise InputError(f"{len(names)} class names for labels 0 to {len(dataset.classes) - 1} of {dataset.name}")
        return list(range(len(dataset.classes)))
    for name in dataset.classes:
        if name not in places:
            raise InputError(f"class {name!r} of {dataset.name} is not among the class names: {_few(name, names)}")
    return [places[name] for name in dataset.classes]


def _numbered(dataset: Dataset) -> bool:
    """Whether the classes have no names but the numbers of their labels."""
    return dataset.classes == tuple(map(str, range(len(dataset.classes))))


def require_same_classes(dataset: Dataset, outputs: int, label: str) -> None:
    """Labels of named classes are a model's outputs only if it has as many; InputError otherwise."""
    if outputs == len(dataset.classes) or _numbered(dataset):
        return
    shown = ", ".join(dataset.classes[:3]) + (", ..." if len(dataset.classes) > 3 else "")
    raise InputError(
        f"model {label!r} has {outputs} outputs, and {dataset.name} {len(dataset.classes)} classes ({shown}): say which output is "
        "which class with --class-names FILE, one name a line in the order of the outputs"
    )


def _few(name: str, names: Sequence[str]) -> str:
    return (
        did_you_mean(name, names)
        if len(names) <= 20
        else did_you_mean(name, names).partition("Known:")[0] or "see the file"
    )


@final
class Relabelled(Dataset):
    """A data set whose class ``k`` is class ``places[k]`` of ``classes``."""

    def __init__(self, whole: Dataset, classes: Sequence[str], places: Sequence[int]) -> None:
        self.whole, self.classes = whole, tuple(classes)
        self.name, self.split, self.image_shape = whole.name, whole.split, whole.image_shape
        self._places = torch.tensor(list(places), dtype=torch.int64)
        self.labels = self._places[whole.labels]

    @property
    def fingerprint(self) -> str:
        """The whole set's where every label stays as it is, otherwise SHA-256 of it and of the new labels."""
        if torch.equal(self.labels, self.whole.labels):
            return self.whole.fingerprint
        return hashlib.sha256(f"{self.whole.fingerprint}|labels {self._places.tolist()}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.whole)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        images, labels = self.whole.tensors(indices)
        return images, self._places[labels]

    def original(self, indices: Indices) -> Tensor:
        return self.whole.original(indices)

    def source(self, index: int) -> str | None:
        return self.whole.source(index)
