"""One table of all networks: size, cost, attention levels, and which weights come with the package."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustatt.models import registry
from robustatt.models.bundle import bundled


@dataclass(frozen=True)
class Row:
    """A network at width 1 and 10 classes. ``gflop``: one 32x32 image, a multiply-add counted as two."""

    name: str
    about: str
    parameters: int
    gflop: float
    levels: tuple[str, ...]
    bundled: tuple[str, ...]


def catalogue() -> list[Row]:
    """All networks by base name; counted on shapes alone, no weights are made or read."""
    have = bundled()
    return [
        _row(name, tuple(data for data, stems in have.items() if name in stems)) for name in registry.names()
    ]


def _row(name: str, data: tuple[str, ...]) -> Row:
    with torch.device("meta"):
        network = registry.build(name)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    family = registry.FAMILIES[name]
    return Row(name, family.about, parameters, family.gflop, network.levels, data)
