"""Drift measures on maps whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustatt.evaluate.drift import AttentionMaps, _bits, drift
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


def test_a_map_of_few_positions_has_one_at_the_top() -> None:
    clean, attacked = torch.tensor([[0.4, 0.3], [0.2, 0.1]]), torch.tensor([[0.1, 0.3], [0.2, 0.4]])
    assert compare(clean, attacked)["iou"] == 0
    assert compare(clean, clean)["iou"] == 1


def test_the_centre_is_in_pixels_of_images_and_maps_that_are_not_square() -> None:
    """Positions of 2 x 6 pixels: the middle of row 1 is at 3, that of column 3 at 21."""
    maps = torch.zeros(2, 4, 8, dtype=torch.float64)
    maps[0, 1, 3] = 1
    maps[1, 1, 3] = maps[1, 3, 0] = 0.5
    found = AttentionMaps.of(maps, (8, 48)).centre
    assert found.tolist() == [[3, 21], [5, 12]]
    assert found.dtype == torch.float64
    assert AttentionMaps.of(maps.to("meta"), (8, 48)).centre.device.type == "meta"


def random_maps(n: int, seed: int) -> Tensor:
    maps = torch.rand(n, 4, 4, generator=torch.Generator().manual_seed(seed)) ** 4
    return maps / maps.sum((1, 2), keepdim=True)


def test_each_row_of_a_batch_is_measured_by_itself() -> None:
    clean, attacked = random_maps(5, 0), random_maps(5, 1)
    clean[2] = attacked[2]
    together = drift(AttentionMaps.of(clean, SIZE), AttentionMaps.of(attacked, SIZE))
    for row in range(5):
        alone = compare(clean[row], attacked[row])
        assert {name: float(values[row]) for name, values in together.items()} == pytest.approx(alone, abs=1e-6)


def test_selected_rows_are_those_of_the_maps() -> None:
    maps, rows = random_maps(5, 2), torch.tensor([3, 0])
    selected, expected = AttentionMaps.of(maps, SIZE).select(rows), AttentionMaps.of(maps[rows], SIZE)
    for name in ("flat", "entropy", "centre", "top"):
        torch.testing.assert_close(getattr(selected, name), getattr(expected, name))


def test_rounding_leads_out_of_no_range() -> None:
    """Unclamped, the divergence of some of these is below 0 or above 1 in float32."""
    maps = random_maps(2000, 3)
    apart = torch.cat([maps, torch.zeros_like(maps)], 2), torch.cat([torch.zeros_like(maps), maps], 2)
    near = maps, (maps * (1 + 1e-6 * random_maps(2000, 4)))
    for clean, attacked, expected in ((*apart, 1.0), (*near, 0.0)):
        seen = AttentionMaps.of(clean, SIZE), AttentionMaps.of(attacked, SIZE)
        unclamped = _bits((seen[0].flat + seen[1].flat) / 2) - (seen[0].entropy + seen[1].entropy) / 2
        assert bool(((unclamped < 0) | (unclamped > 1)).any())
        js = drift(*seen)["js"]
        assert float(js.min()) >= 0
        assert float(js.max()) <= 1
        assert float((js - expected).abs().max()) < 1e-5
