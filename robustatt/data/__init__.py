"""Data sets by name or path; all become uint8 RGB images with stable indices and a content hash."""

from __future__ import annotations

from pathlib import Path

from robustatt.data.base import Dataset, TensorDataset
from robustatt.errors import InputError, did_you_mean

__all__ = ["Dataset", "TensorDataset", "load"]

SPLITS = ("train", "test")


def load(
    name_or_path: str | Path,
    split: str = "test",
    *,
    root: str | Path | None = None,
    download: bool = False,
    label_column: str | None = None,
) -> Dataset:
    """A data set by name or by path.

    Args:
        name_or_path: ``digits``, ``cifar10``, ``cifar100``, ``svhn`` or ``stl10``.
        split: ``train`` or ``test``.
        root: the folder that holds the downloaded files.
        download: fetch them if they are missing.
        label_column: the column of Parquet files that holds the label.

    Raises:
        InputError: no such data set or split, or its files are missing or damaged.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: {did_you_mean(split, SPLITS)}")
    if name_or_path == "digits":
        from robustatt.data.digits import digits

        return digits(split)
    from robustatt.data.vision import SETS, vision

    if name_or_path in SETS:
        return vision(str(name_or_path), split, root, download)
    del label_column
    known = ["digits", *SETS]
    raise InputError(f"unknown data {str(name_or_path)!r}: {did_you_mean(str(name_or_path), known)}")
