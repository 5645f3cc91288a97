"""Binarisation and measures on maps whose answer is known, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, jaccard_score

from robustatt.results.statistics import Estimate
from robustatt.studies.segment import aggregate, measures
from robustatt.studies.segment.floors import gaussian
from robustatt.studies.segment.measures import (
    THRESHOLDS,
    above,
    average_precision,
    is_constant,
    jaccard_by_threshold,
    mass_on_object,
    measure,
    otsu,
    overlap,
    pointing,
    upper_share,
)

SHAPE = (12, 18)


def disk(height: int = 41, width: int = 41, radius: float = 10.0) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2 <= radius**2


def a_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 3:9] = True
    return mask


def test_the_mask_itself_is_a_perfect_map() -> None:
    mask = a_mask()
    found = measure(mask.astype(np.float32), mask, threshold=0.5, quantile=1 - mask.mean())
    assert found.pop("jaccard_area") == pytest.approx(1.0, abs=1e-4)  # at the threshold 0 every pixel is marked
    assert all(value == 1.0 for value in found.values()), found


def test_the_inverted_mask_finds_nothing() -> None:
    mask = a_mask()
    found = measure(1.0 - mask.astype(np.float32), mask, threshold=0.5, quantile=0.75)
    assert {found[f"{name}_{way}"] for way in ("otsu", "threshold") for name in ("jaccard", "precision", "recall")} == {0.0}
    assert found["pointing"] == found["mass"] == 0.0
    # all pixels off the object come first, then the whole object at once
    assert found["average_precision"] == pytest.approx(mask.mean())


@pytest.mark.parametrize("level", [0.0, 1e-9, 0.25, 1.0, -3.0])
def test_a_constant_map_is_worth_what_chance_is(level: float) -> None:
    mask = a_mask()
    found = measure(np.full(SHAPE, level, np.float32), mask, threshold=0.5, quantile=0.9)
    share = mask.mean()
    for way in measures.WAYS:
        assert found[f"jaccard_{way}"] == found[f"precision_{way}"] == pytest.approx(share)
        assert found[f"recall_{way}"] == 1.0
    assert found["average_precision"] == found["pointing"] == found["mass"] == pytest.approx(share)


def test_rounding_noise_of_single_precision_is_no_preference() -> None:
    uniform = np.full(SHAPE, 1 / 216, np.float32)
    noisy = uniform * (1 + 1e-7 * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    assert is_constant(noisy)
    assert not is_constant(uniform * (1 + 1e-4 * a_mask()).astype(np.float32))


def test_nan_is_an_error_and_no_measure() -> None:
    values = np.ones(SHAPE, np.float32)
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        measure(values, a_mask(), 0.5, 0.75)


def test_a_centred_disk_is_found_by_a_gaussian() -> None:
    mask = disk()
    bell = gaussian(*mask.shape)
    assert average_precision(bell, mask) == 1.0
    assert pointing(bell, mask) == 1.0
    assert overlap(upper_share(bell, 1 - float(mask.mean())), mask).jaccard > 0.95
    assert jaccard_by_threshold(bell, mask).max() > 0.95


def test_a_gaussian_is_symmetric_and_a_third_of_the_side_wide() -> None:
    bell = gaussian(30, 60)
    np.testing.assert_allclose(bell, bell[::-1, ::-1], rtol=1e-6)
    half = gaussian(31, 61)[15]  # the middle row: exp(-x^2 / 2) with x in thirds of the side
    assert half[30] == 1.0
    assert half[10] == pytest.approx(np.exp(-0.5 * (20 / (61 / 3)) ** 2), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, (6, 7), elements=st.integers(0, 9).map(float)),
    arrays.arrays(np.bool_, (6, 7)),
)
def test_average_precision_is_scikit_learns(values: np.ndarray, mask: np.ndarray) -> None:
    mask[0, 0] = True
    expected = average_precision_score(mask.ravel(), values.ravel())
    assert average_precision(values, mask) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.bool_, (5, 5)), arrays.arrays(np.bool_, (5, 5)))
def test_jaccard_is_scikit_learns(marked: np.ndarray, mask: np.ndarray) -> None:
    mask[0, 0] = True
    assert overlap(marked, mask).jaccard == pytest.approx(jaccard_score(mask.ravel(), marked.ravel(), zero_division=0))


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)), arrays.arrays(np.bool_, (6, 7)))
def test_jaccard_by_threshold_is_that_of_each_threshold(values: np.ndarray, mask: np.ndarray) -> None:
    mask[0, 0] = True
    each = [overlap(above(values, threshold), mask).jaccard for threshold in THRESHOLDS]
    np.testing.assert_allclose(jaccard_by_threshold(values, mask), each)


def test_order_alone_decides_what_needs_no_scale() -> None:
    rng = np.random.default_rng(3)
    values, mask = rng.random(SHAPE), a_mask()
    for bent in (values**3, np.exp(5 * values), values * 0.01 + 7):
        assert average_precision(bent, mask) == pytest.approx(average_precision(values, mask))
        assert pointing(bent, mask) == pointing(values, mask)
        np.testing.assert_array_equal(upper_share(bent, 0.75), upper_share(values, 0.75))


def test_otsu_separates_two_heaps() -> None:
    rng = np.random.default_rng(0)
    mask = a_mask()
    values = np.where(mask, 0.7, 0.2) + 0.05 * rng.standard_normal(SHAPE)
    assert overlap(otsu(values), mask).jaccard > 0.95  # all but what shares a bin of 256 with the threshold


def test_a_quantile_marks_its_share_and_ties_whole() -> None:
    values = np.arange(216.0).reshape(SHAPE)
    assert upper_share(values, 0.75).sum() == 54
    tied = np.zeros(SHAPE)
    tied[0] = 1.0
    assert upper_share(tied, 0.99).sum() == 18  # two pixels were asked for, and eighteen are equally high


def test_pointing_shares_a_tie() -> None:
    values, mask = np.zeros((2, 4)), np.zeros((2, 4), bool)
    values[0, :2] = 1.0
    mask[0, 0] = True
    assert pointing(values, mask) == 0.5


def test_mass_is_a_share_of_the_sum() -> None:
    values = np.array([[3.0, 1.0], [0.0, 0.0]])
    assert mass_on_object(values, np.array([[True, False], [True, False]])) == 0.75


def test_an_empty_mask_has_no_overlap() -> None:
    with pytest.raises(ValueError, match="empty"):
        overlap(np.ones(SHAPE, bool), np.zeros(SHAPE, bool))


def test_paired_differences_of_known_values() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60)
    (same, p_same), (shifted, p_shifted) = aggregate.paired(base, base, seed=1), aggregate.paired(base + 0.1, base, seed=1)
    assert (*same, p_same) == (0, 0, 0, 1)
    assert shifted.value == pytest.approx(0.1)
    assert p_shifted < 1e-10
    alike, p_alike = aggregate.paired(rng.random(60), rng.random(60), seed=1)
    assert alike.low < 0 < alike.high
    assert p_alike > 0.05


def test_holm_is_over_all_comparisons_of_a_table() -> None:
    found = aggregate.adjusted([(Estimate(0.1, 0.0, 0.2), p) for p in (0.01, 0.04, 0.03)])
    assert [entry.p_holm for entry in found] == pytest.approx([0.03, 0.06, 0.06])


def test_intervals_stay_shares() -> None:
    assert aggregate.mean([1.0]).as_dict() == {"mean": 1.0, "low": None, "high": None}
    wide = aggregate.mean([1.0, 1.0, 0.2])
    assert wide.high == 1.0
    assert wide.low is not None
    assert 0 <= wide.low < wide.mean
    low, high = aggregate.hits([0.0] * 20).ends
    assert low == 0
    assert 0.1 < high < 0.2  # Wilson: no hit among 20 says little


def test_the_level_trend_is_higher_minus_lower() -> None:
    rows = [
        {
            "model": "mine",
            "method": level,
            "kind": "attention",
            "eps": "0/255",
            "index": index,
            "mass": mass + index / 100,
        }
        for level, mass in (("l3", 0.6), ("l1", 0.2), ("l2", 0.3))
        for index in range(9)
    ]
    (trend,) = aggregate.level_trend(pd.DataFrame(rows), seed=0)
    assert (trend.lower, trend.higher) == ("l1", "l3")
    assert trend.difference == pytest.approx(0.4)
    assert trend.p_holm < 0.01


def test_the_area_over_thresholds_is_the_mean_of_what_thresholds_drawn_evenly_give() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[:4] = True
    values = (rng.random(SHAPE) + mask).astype(np.float32)
    drawn = [overlap(above(values, threshold), mask).jaccard for threshold in rng.random(4000)]
    assert measure(values, mask, threshold=0.5, quantile=0.5)["jaccard_area"] == pytest.approx(np.mean(drawn), abs=0.01)
