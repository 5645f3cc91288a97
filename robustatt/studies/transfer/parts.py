"""The parts of a data set that a transfer uses: a training and a test part, or one part to cut into folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from robustatt.data import SPLITS, load
from robustatt.data.dataset import Dataset
from robustatt.data.views import Sample, stratified
from robustatt.errors import InputError, NoSuchSplit
from robustatt.studies.transfer import svm
from robustatt.studies.transfer.request import TransferRequest
from robustatt.studies.transfer.result import DataSet

Parts = dict[str, Dataset]


def load_parts(request: TransferRequest, spec: str, side: int | None) -> Parts:
    """The parts of a set by split, with images of ``side`` pixels (None: as they are), limited as the request says.

    Raises:
        InputError: the data cannot be read.
    """
    found: Parts = {}
    for split in ("test",) if Path(spec).suffix == ".parquet" else SPLITS:
        try:
            whole = load(
                spec, split, root=request.data_root, download=request.download, label_column=request.label_column,
                image_size=side,
            )  # fmt: skip
        except NoSuchSplit as problem:
            absent = problem
            continue
        found[split] = _limited(request, whole)
    if not found:
        raise absent
    return found


def _limited(request: TransferRequest, whole: Dataset) -> Dataset:
    if request.n is not None and request.n < len(whole):
        return Sample(whole, torch.arange(request.n))
    if request.sample is not None and request.sample < len(whole):
        return Sample(whole, stratified(whole.labels, request.sample, request.seed))
    return whole


def by_test_part(parts: Parts) -> bool:
    """Whether the set has a test part beside a training part; otherwise its only part is cut into folds."""
    return len(parts) == 2


def answered(parts: Parts) -> Dataset:
    """The part whose images are answered for."""
    return parts["test"] if by_test_part(parts) else next(iter(parts.values()))


def numbers(part: Dataset) -> svm.Integers:
    """The labels as numpy's int64."""
    return np.asarray(part.labels.numpy(), dtype=np.int64)


def check(request: TransferRequest, spec: str, parts: Parts) -> None:
    """Whether an SVM can be fitted and judged on these parts.

    Raises:
        InputError: a class is too small, there is only one, or the parts have other classes.
    """
    if not by_test_part(parts):
        part = answered(parts)
        svm.check_folds(numbers(part), part.classes, request.folds, f"data {spec}")
        return
    train, test = parts["train"], parts["test"]
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        which = f"{odd[0]!r} is in one of them only" if odd else "they stand in another order"
        raise InputError(f"data {spec}: its training and test part have different classes ({which}): make them the same")
    svm.check_training_part(numbers(train), train.classes, f"data {spec}, training part")


def describe(request: TransferRequest, name: str, parts: Parts) -> DataSet:
    """The set as the result holds it."""
    part = answered(parts)
    labels = numbers(part)
    counts = np.bincount(labels)
    tested = by_test_part(parts)
    trained = len(parts["train"]) if tested else round(len(part) * (1 - 1 / request.folds))
    return DataSet(
        name=name,
        protocol="test part" if tested else f"{request.folds} folds of the {part.split} part",
        n=len(part),
        trained=trained,
        classes=int((counts > 0).sum()),
        floor=float(counts.max() / len(labels)),
        fingerprint=part.fingerprint,
    )
