"""One table of all networks: size, cost, attention levels, and which weights come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from robustatt.models.card import Card, read_card
from robustatt.models.checkpoint import ADVERSARIAL, bundled, bundled_path
from robustatt.models.registry import FAMILIES, build, names, parse


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
    """All networks by base name; counted on shapes alone, no weights are made or read."""
    have = bundled()
    return [_row(name, tuple(_stems(name, have))) for name in names()]


def _stems(name: str, have: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """The data sets there are weights for, with what sets them apart, such as ``cifar10 (adv)``."""
    for data, stems in have.items():
        for stem in stems:
            if stem == name:
                yield data
            elif stem.startswith(f"{name}_") and parse(stem.removesuffix(ADVERSARIAL))[0] == name:
                yield f"{data} ({stem.removeprefix(f'{name}_')})"


def _row(name: str, data: tuple[str, ...]) -> NetworkRow:
    with torch.device("meta"):
        network = build(name)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    family = FAMILIES[name]
    return NetworkRow(name, family.about, parameters, family.gflop, network.levels, data)
