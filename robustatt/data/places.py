"""Where the files of a data set are; read without torch, which the data itself needs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from robustatt.data.cache import cache_folder
from robustatt.files import tree

#: where torchvision leaves the files of each set, below the root
PLACES = {
    "cifar10": "cifar-10-batches-py/*",
    "cifar100": "cifar-100-python/*",
    "svhn": "*_32x32.mat",
    "stl10": "stl10_binary/*",
}

CORRUPTION_LABELS = "labels.npy"
"""What a folder of published corruptions holds beside their arrays (see `robustatt.data.corruptions`)."""


def default_root() -> Path:
    """Where downloads go when no ``root`` is given: ``data`` in the cache folder."""
    return cache_folder() / "data"


def files(name: str, root: str | Path | None) -> list[Path]:
    """The files of a named set that are there, whether whole or not; none of a set that is computed."""
    if name == "digits":
        return [digits_file()]
    if name not in PLACES:
        return []
    folder = Path(root) if root is not None else default_root()
    return sorted(folder.glob(PLACES[name]))


def digits_file() -> Path:
    """The digits inside scikit-learn, which is not imported for them: that takes longer than a small sweep."""
    library = find_spec("sklearn")
    assert library is not None, "a dependency of this package"
    return Path(str(library.origin)).parent / "datasets" / "data" / "digits.csv.gz"


def files_of(name_or_path: str, root: str | Path | None = None) -> Iterator[Path]:
    """The files and folders that a data set is read from, so far as they are there."""
    if name_or_path not in {"digits", *PLACES}:
        yield from tree(parts_of(name_or_path)[0] if is_corruption_path(name_or_path) else Path(name_or_path))
        return
    yield from files(name_or_path, root)
    if root is not None:
        yield from tree(Path(root, name_or_path))


def is_corruption_path(path: str) -> bool:
    """Whether a path means such a folder: ``DIR``, ``DIR:CORRUPTION[:SEVERITY]`` or the file."""
    return (parts_of(path)[0] / CORRUPTION_LABELS).is_file()


def parts_of(path: str) -> tuple[Path, str, str]:
    """Folder, corruption and severity; a colon that belongs to the folder's own name stays with it."""
    whole = Path(path)
    if whole.is_dir():
        return whole, "", ""
    if Path(path).suffix == ".npy":
        return whole.parent, whole.stem, ""
    folder, _, severity = path.rpartition(":")
    if Path(folder).suffix == ".npy":
        return Path(folder).parent, Path(folder).stem, severity
    if severity.isdecimal() and ":" in folder:
        folder, _, corruption = folder.rpartition(":")
        return Path(folder), corruption, severity
    return (Path(folder), severity, "") if folder else (whole, "", "")
