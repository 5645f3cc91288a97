"""One table of all networks, size, cost, attention levels, and the weights that come with the package: read without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robustatt.errors import InputError, did_you_mean
from robustatt.models.card import Card, read_card
from robustatt.models.families import ADVERSARIAL, FAMILIES, canonical, parse

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def bundled() -> dict[str, tuple[str, ...]]:
    """Data set to the names of the networks whose weights come with the package."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(WEIGHTS.glob("*/*.safetensors")):
        found[file.parent.name] = (*found.get(file.parent.name, ()), file.stem)
    return found


def bundled_path(name: str, data: str = "digits") -> Path:
    """The file of bundled weights.

    Raises:
        InputError: nothing is bundled for this network and data set; lists what is.
    """
    have = bundled()
    base = name.removesuffix(ADVERSARIAL)
    stem = name if name in have.get(Path(data).name, ()) else canonical(base) + name[len(base) :]
    if stem in have.get(data, ()):
        return WEIGHTS / data / f"{stem}.safetensors"
    if data in have:
        raise InputError(f"no bundled {name!r} for data {data!r}: {did_you_mean(name, have[data])}")
    near = Path(data).name
    if stem in have.get(near, ()):
        file = WEIGHTS / near / f"{stem}.safetensors"
        raise InputError(f"no weights are bundled for a path; if {data!r} is {near}, say --weights {file}")
    every = "; ".join(f"{key}: {', '.join(stems)}" for key, stems in have.items()) or "none"
    raise InputError(f"no weights are bundled for data {data!r} (there are {every}): train some or give --weights")


@dataclass(frozen=True)
class NetworkRow:
    """A network at width 1 and 10 classes. ``gflop``: one 32x32 image, a multiply-add counted as two."""

    name: str
    about: str
    parameters: int
    gflop: float
    levels: tuple[str, ...]
    bundled: tuple[str, ...]


def bundled_cards() -> list[tuple[str, str, Card]]:
    """All weights that come with the package: data set, name, and what their card says."""
    return [(data, stem, read_card(bundled_path(stem, data))) for data, stems in bundled().items() for stem in stems]


def catalogue() -> list[NetworkRow]:
    """All networks by base name."""
    have = bundled()
    return [
        NetworkRow(name, family.about, family.parameters, family.gflop, family.levels, tuple(_stems(name, have)))
        for name, family in FAMILIES.items()
    ]


def _stems(name: str, have: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """The data sets there are weights for, with what sets them apart, such as ``cifar10 (adv)``."""
    for data, stems in have.items():
        for stem in stems:
            if stem == name:
                yield data
            elif stem.startswith(f"{name}_") and parse(stem.removesuffix(ADVERSARIAL))[0] == name:
                yield f"{data} ({stem.removeprefix(f'{name}_')})"
