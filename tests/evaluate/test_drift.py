"""Drift measures on maps whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustatt.evaluate.drift import AttentionMaps, drift
from robustatt.results.columns import DRIFT_METRICS

SIZE = (32, 32)


def compare(clean: Tensor, attacked: Tensor) -> dict[str, float]:
    found = drift(AttentionMaps.of(clean[None], SIZE), AttentionMaps.of(attacked[None], SIZE))
    assert set(found) == set(DRIFT_METRICS)
    return {name: float(values[0]) for name, values in found.items()}


def spot(row: int, column: int, side: int = 8) -> Tensor:
    """All attention on one position."""
    attention = torch.zeros(side, side)
    attention[row, column] = 1.0
    return attention


def test_identical_maps_have_not_moved() -> None:
    attention = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).flatten().softmax(0).reshape(8, 8)
    found = compare(attention, attention)
    assert found["js"] == 0
    assert found["shift"] == 0
    assert found["entropy"] == 0
    assert found["iou"] == 1
    assert found["cosine"] == pytest.approx(1, abs=1e-6)


def test_disjoint_maps_have_nothing_in_common() -> None:
    left, right = torch.zeros(8, 8), torch.zeros(8, 8)
    left[:, :2], right[:, 6:] = 1 / 16, 1 / 16
    found = compare(left, right)
    assert found["js"] == pytest.approx(1, abs=1e-6)
    assert found["cosine"] == 0
    assert found["iou"] == 0
    assert found["entropy"] == 0


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (3, 0), (3, 4)])
def test_a_shift_is_measured_in_pixels_of_the_input(rows: int, columns: int) -> None:
    found = compare(spot(1, 2), spot(1 + rows, 2 + columns))
    assert found["shift"] == pytest.approx(4 * math.hypot(rows, columns), abs=1e-5)


def test_spreading_out_raises_the_entropy_by_its_bits() -> None:
    even = torch.full((8, 8), 1 / 64)
    assert compare(spot(0, 0), even)["entropy"] == pytest.approx(6, abs=1e-5)
    assert compare(even, spot(0, 0))["entropy"] == pytest.approx(-6, abs=1e-5)


def test_divergence_of_two_coins() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    middle = (p + q) / 2
    expected = sum(float((m * (m / middle).log2()).sum()) / 2 for m in (p, q))
    assert compare(p, q)["js"] == pytest.approx(expected, abs=1e-6)


def test_the_top_is_a_fifth_of_the_positions() -> None:
    """Values 1 to 100 in order, and the same moved by ten: of the twenty highest ten are shared, of thirty in all."""
    rising = torch.arange(1, 101, dtype=torch.float32)
    clean, attacked = (values.reshape(10, 10) / values.sum() for values in (rising, rising.roll(-10)))
    assert compare(clean, attacked)["iou"] == pytest.approx(10 / 30)
