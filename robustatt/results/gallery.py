"""Stored examples of a run: images, attacked images, attention maps; the sweep writes, the report reads.

``DIR/gallery/gallery.npz`` is a plain compressed npz (no pickles) of one or more groups; entries of one
group share all array shapes. Group number g holds, with k entries:

- ``g.model``, ``g.attack``, ``g.eps``: text ``(k,)``, eps as in the records ("8/255");
- ``g.index``, ``g.label``, ``g.clean_pred``, ``g.adv_pred``: int64 ``(k,)``;
- ``g.image``: uint8 ``(k, height, width, 3)``; ``g.adversarial``: float16 in [0, 1], the same shape;
- ``g.clean.LEVEL``, ``g.attacked.LEVEL``: float16 ``(k, h, w)``, attention maps that sum to 1 (none for a
baseline).

An entry stands for one (model, attack, index, eps). Entries of one example at several radii make the page's
slider.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.files import UNREADABLE_ZIP, subfolder, write_atomically

GALLERY_FILE = Path("gallery") / "gallery.npz"
MAX_ENTRIES = 20_000
MAX_BYTES = 2**30

Map = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GalleryEntry:
    """One example under one attack at one radius."""

    model: str
    attack: str
    index: int
    eps: str
    label: int
    clean_pred: int
    adv_pred: int
    image: NDArray[np.uint8]
    """The clean image, uint8 ``(height, width, 3)``."""
    adversarial: NDArray[Any]
    """The attacked image, the same shape: uint8, or floats in [0, 1]."""
    clean_maps: Mapping[str, Map] = field(default_factory=dict)
    """By level ("l1", ...): the attention map of the clean image, ``(h, w)``, summing to 1."""
    attacked_maps: Mapping[str, Map] = field(default_factory=dict)

    @property
    def fooled(self) -> bool:
        """Whether the prediction changed."""
        return self.clean_pred != self.adv_pred

    @property
    def levels(self) -> list[str]:
        """The levels that both images have a map of, in the order of depth."""
        return [level for level in self.clean_maps if level in self.attacked_maps]

    @property
    def perturbation(self) -> NDArray[np.float32]:
        """Attacked minus clean, in [-1, 1] pixel scale."""
        return as_float(self.adversarial) - as_float(self.image)


def as_float(image: NDArray[Any]) -> NDArray[np.float32]:
    """An image as float32 in [0, 1], whether it is stored as uint8 or as floats."""
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    return image.astype(np.float32) / np.float32(scale)


def choose_examples(breaking: Mapping[int, float], count: int = 12, seed: int = 0) -> list[int]:
    """A seeded choice of examples to store: a third each that hold, that break late, that break early.

    ``breaking`` gives each cleanly right example's smallest breaking radius, infinity if none. A group that
    has too few is filled from the others.
    """
    rng = np.random.default_rng(seed)
    index = np.array(sorted(breaking))
    radius = np.array([breaking[int(i)] for i in index])
    if index.size <= count:
        return [int(i) for i in index]
    broken = np.isfinite(radius)
    middle = float(np.median(radius[broken])) if broken.any() else 0.0
    groups = [index[~broken], index[broken & (radius > middle)], index[broken & (radius <= middle)]]
    shuffled = [list(rng.permutation(group)) for group in groups]
    chosen: list[int] = []
    while len(chosen) < count and any(shuffled):
        chosen += [int(group.pop()) for group in shuffled if group]
    return sorted(chosen[:count])


def write_gallery(directory: Path, entries: Iterable[GalleryEntry]) -> Path:
    """Write the gallery of the run in ``directory``, whole or not at all; InputError on a bad shape."""
    groups: dict[tuple[Any, ...], list[GalleryEntry]] = {}
    for entry in entries:
        _check(entry)
        shapes = tuple((level, entry.clean_maps[level].shape) for level in entry.levels)
        groups.setdefault((entry.image.shape, shapes), []).append(entry)
    arrays: dict[str, NDArray[Any]] = {}
    for number, group in enumerate(groups.values()):
        for name in ("model", "attack", "eps"):
            arrays[f"{number}.{name}"] = np.array([getattr(entry, name) for entry in group], dtype=np.str_)
        for name in ("index", "label", "clean_pred", "adv_pred"):
            arrays[f"{number}.{name}"] = np.array([getattr(entry, name) for entry in group], dtype=np.int64)
        arrays[f"{number}.image"] = np.stack([entry.image for entry in group])
        arrays[f"{number}.adversarial"] = np.stack([as_float(e.adversarial) for e in group]).astype(np.float16)
        for level in group[0].levels:
            arrays[f"{number}.clean.{level}"] = np.stack([e.clean_maps[level] for e in group]).astype(np.float16)
            attacked = np.stack([e.attacked_maps[level] for e in group])
            arrays[f"{number}.attacked.{level}"] = attacked.astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path = subfolder(Path(directory), GALLERY_FILE.parent.name) / GALLERY_FILE.name
    write_atomically(path, buffer.getvalue())
    return path


def _check(entry: GalleryEntry) -> None:
    where = f"gallery entry {entry.index} of {entry.model}"
    if entry.image.dtype != np.uint8 or entry.image.ndim != 3 or entry.image.shape[2] != 3:
        raise InputError(f"{where}: the image must be uint8 (height, width, 3), not {entry.image.shape}")
    if entry.adversarial.shape != entry.image.shape:
        raise InputError(f"{where}: the attacked image is {entry.adversarial.shape}, not {entry.image.shape}")
    parse_radius(entry.eps)


def read_gallery(directory: Path) -> list[GalleryEntry]:
    """The stored examples of a run, empty if it stored none; raises InputError if the file is damaged."""
    path = Path(directory) / GALLERY_FILE
    if not path.exists():
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError("too large")
        with np.load(path, allow_pickle=False) as arrays:
            groups: dict[str, dict[str, NDArray[Any]]] = {}
            for name in arrays.files:
                number, _, key = name.partition(".")
                groups.setdefault(number, {})[key] = arrays[name]
        entries = [entry for group in groups.values() for entry in _entries(group)]
        for entry in entries:
            _check(entry)
    except (*UNREADABLE_ZIP, KeyError, TypeError, IndexError, InputError):
        raise InputError(f"{path} is damaged: delete it and run the sweep again to rewrite it") from None
    return entries


def _entries(group: Mapping[str, NDArray[Any]]) -> list[GalleryEntry]:
    levels = [key.removeprefix("clean.") for key in group if key.startswith("clean.")]
    count = len(group["index"])
    if count > MAX_ENTRIES or any(len(array) != count for array in group.values()):
        raise ValueError("lengths differ")
    return [
        GalleryEntry(
            str(group["model"][i]),
            str(group["attack"][i]),
            int(group["index"][i]),
            str(group["eps"][i]),
            int(group["label"][i]),
            int(group["clean_pred"][i]),
            int(group["adv_pred"][i]),
            group["image"][i],
            group["adversarial"][i],
            {level: group[f"clean.{level}"][i] for level in levels},
            {level: group[f"attacked.{level}"][i] for level in levels},
        )
        for i in range(count)
    ]


def by_example(entries: Sequence[GalleryEntry]) -> dict[tuple[str, str, int], list[GalleryEntry]]:
    """Entries by (model, attack, index), each list by ascending radius."""
    groups: dict[tuple[str, str, int], list[GalleryEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.model, entry.attack, entry.index), []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: parse_radius(entry.eps))
    return groups
