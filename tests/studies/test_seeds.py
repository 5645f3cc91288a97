"""Differences over images and seeds: against closed forms, and their coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustatt.results.statistics import difference_over_seeds
from robustatt.studies.seeds import BySeed, by_network, compare, compare_counts, compare_on_average, network_of, shares


def test_with_no_variance_of_images_it_is_welchs_test() -> None:
    a, b = [0.80, 0.82, 0.85], [0.70, 0.74]
    change, p = difference_over_seeds(a, b, 0.0, 100)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert p == pytest.approx(welch.pvalue)
    assert (change.low, change.high) == pytest.approx(welch.confidence_interval())


def test_with_one_seed_each_it_is_the_paired_t_test_of_the_images() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 50)), rng.random((1, 50))
    found = compare(BySeed(a), BySeed(b))
    paired = stats.ttest_rel(a[0], b[0])
    assert found.p == pytest.approx(paired.pvalue)
    assert (found.change.low, found.change.high) == pytest.approx(paired.confidence_interval())
    assert not found.over_seeds


def test_what_is_fixed_has_no_seeds() -> None:
    rng = np.random.default_rng(1)
    trained, floor = BySeed(rng.random((3, 40))), BySeed(rng.random((1, 40)), fixed=True)
    assert compare(trained, floor).over_seeds
    assert not compare(trained, BySeed(floor.values)).over_seeds
    assert len(compare(trained, floor).by_seed) == 3
    assert np.mean(compare(trained, floor).by_seed) == pytest.approx(compare(trained, floor).change.value)


def test_nothing_differs_or_everything_does() -> None:
    same = BySeed(np.ones((2, 5)))
    assert compare(same, same).p == 1
    assert compare(same, BySeed(np.zeros((2, 5)))).p == 0
    with pytest.raises(ValueError, match="a single one"):
        difference_over_seeds([1.0], [0.0], 0.1, 1)


def test_the_interval_covers_the_truth_over_seeds_and_images() -> None:
    """Each image has its own difficulty, each seed its own skill: both are drawn anew; 95 % of 2,000 intervals, three errors less."""
    rng, covered, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        difficulty = rng.normal(size=200)
        first, second = (difficulty + rng.normal(0.0, 0.15, (3, 1)) + rng.normal(size=(3, 200)) + skill for skill in (0.3, 0.0))
        change = compare(BySeed(first), BySeed(second)).change
        covered += change.low <= 0.3 <= change.high
    assert covered / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5
    assert covered / runs < 0.99


def test_counts_are_as_of_independent_samples() -> None:
    change = compare_counts([800], [700], 1000).change
    error = (0.8 * 0.2 / 1000 + 0.7 * 0.3 / 1000) ** 0.5
    assert change.value == pytest.approx(0.1)
    assert change.high - change.value == pytest.approx(stats.t.ppf(0.975, 999) * error)
    assert compare_counts([800, 810], [700, 690], 1000).over_seeds
    assert not compare_counts([800, 810], [700], 1000).over_seeds


def test_an_average_over_sets_weighs_them_equally() -> None:
    rng = np.random.default_rng(2)
    sets = [(BySeed(rng.random((2, n))), BySeed(rng.random((2, n)))) for n in (30, 300)]
    each = [compare(*pair).change.value for pair in sets]
    assert compare_on_average(sets).change.value == pytest.approx(np.mean(each))


def test_labels_and_shares() -> None:
    assert network_of("vgg_att2-seed1") == network_of("vgg_att2") == "vgg_att2"
    assert by_network(["vgg_att2-seed10", "mine", "vgg_att2-seed2", "vgg"]) == {
        "vgg": ["vgg"], "vgg_att2": ["vgg_att2-seed2", "vgg_att2-seed10"], "mine": ["mine"],
    }  # fmt: skip
    assert shares([80], 100) == "80.0 % (71.1 to 86.7, one seed)"
    assert shares([80, 82], 100) == "81.0 % (seeds 80.0, 82.0; standard deviation 1.4)"
