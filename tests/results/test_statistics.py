"""Every statistic against an independent implementation or a published value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustatt.results import statistics


def test_wilson_equals_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for n in (1, 7, 500, 10_000):
        for k in {0, 1, n // 3, n - 1, n}:
            expected = proportion.proportion_confint(k, n, method="wilson")
            assert np.allclose(statistics.wilson(k, n), expected, atol=1e-12)


def test_wilson_known_value() -> None:
    low, high = statistics.wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(float(low), 4), round(float(high), 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="n"):
        statistics.wilson(k, n)


def test_mean_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="nothing"):
        statistics.mean([])


def test_held_up_to_never_recovers() -> None:
    assert statistics.held_up_to([[True, False, True], [True, True, True]]).tolist() == [
        [True, False, False],
        [True, True, True],
    ]


def test_mean_interval_equals_scipy() -> None:
    from scipy import stats

    sample = np.random.default_rng(0).gamma(2.0, size=23)
    average, low, high = statistics.mean_interval(sample.sum(), (sample**2).sum(), sample.size)
    expected = stats.t.interval(0.95, 22, loc=sample.mean(), scale=stats.sem(sample))
    assert np.allclose([average, low, high], [sample.mean(), *expected])
    assert math.isnan(statistics.mean_interval(1.0, 1.0, 1)[1])


def test_mcnemar_equals_statsmodels_and_binomial() -> None:
    from scipy.stats import binomtest

    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in [(0, 0), (1, 0), (5, 5), (10, 2), (0, 12), (40, 61), (500, 400)]:
        ours = float(statistics.mcnemar_exact(b, c))
        if b + c:
            assert ours == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
        assert ours == pytest.approx(tables.mcnemar([[3, b], [c, 4]], exact=True).pvalue, rel=1e-9)


def test_one_sided_mcnemar_equals_scipy() -> None:
    from scipy.stats import binomtest

    for b, c in [(0, 0), (5, 0), (0, 5), (30, 5), (7, 9), (120, 100)]:
        expected = binomtest(b, b + c, alternative="greater").pvalue if b + c else 1.0
        assert float(statistics.mcnemar_one_sided(b, c)) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="negative"):
        statistics.mcnemar_one_sided(-1, 2)


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(1).beta(0.3, 1, size=40)
    assert np.allclose(statistics.holm(p), multitest.multipletests(p, method="holm")[1])
    assert statistics.holm([]).size == 0


def test_newcombe_published_value() -> None:
    # Newcombe 1998 (Stat Med 17:2635), table III, method 10, the table (36, 12, 2, 0)
    estimate = statistics.newcombe_paired(statistics.PairedCounts(36, 12, 2, 0))
    assert estimate.value == pytest.approx(0.2)
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (0.0569, 0.3404)


def test_newcombe_without_correlation_equals_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    estimate = statistics.newcombe_paired(statistics.PairedCounts(12, 28, 18, 42))  # phi = 0
    expected = proportion.confint_proportions_2indep(40, 100, 30, 100, method="newcomb", compare="diff")
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_newcombe_covers() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(600):
        base = rng.random(120)
        a, b = base < 0.7, np.where(rng.random(120) < 0.2, rng.random(120), base) < 0.6
        estimate = statistics.newcombe_paired(statistics.PairedCounts.of(a, b))
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.93 <= hits / 600 <= 0.99


def test_paired_bootstrap_agrees_with_scipy_and_is_seeded() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.7
    ours = statistics.paired_bootstrap(a, b, seed=5)
    assert ours == statistics.paired_bootstrap(a, b, seed=5)
    difference = (a.astype(float) - b,)
    theirs = stats.bootstrap(difference, np.mean, method="percentile", rng=np.random.default_rng(0))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.008)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.008)
    real = statistics.paired_bootstrap(rng.normal(1.0, size=50), np.zeros(50), seed=0, resamples=2000)
    assert real.low < real.value < real.high


def test_power_by_simulation() -> None:
    n, d, psi = 500, 0.06, 0.2
    rng = np.random.default_rng(4)
    cells = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=4000)
    chi = (cells[:, 0] - cells[:, 1]) ** 2 / (cells[:, 0] + cells[:, 1]) > statistics.normal_quantile(0.975) ** 2
    assert statistics.mcnemar_power(n, d, psi) == pytest.approx(chi.mean(), abs=0.03)


def test_detectable_difference_inverts_power() -> None:
    d = statistics.detectable_difference(1000, discordance=0.1)
    assert statistics.mcnemar_power(1000, d, 0.1) == pytest.approx(0.8, abs=1e-6)
    assert statistics.detectable_difference(10_000) < statistics.detectable_difference(100)
    assert math.isnan(statistics.detectable_difference(10, discordance=0.01))


def test_auc_equals_sklearn_and_mann_whitney() -> None:
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(6)
    positive = rng.random(400) < 0.3
    score = np.round(rng.normal(size=400) + positive, 1)  # with ties
    estimate = statistics.auc_interval(score, positive)
    assert estimate.value == pytest.approx(roc_auc_score(positive, score))
    u = mannwhitneyu(score[positive], score[~positive]).statistic
    assert estimate.value == pytest.approx(u / (positive.sum() * (~positive).sum()))


def test_auc_variance_equals_definition_and_bootstrap() -> None:
    rng = np.random.default_rng(7)
    positive = np.arange(200) < 80
    score = rng.normal(size=200) + 0.8 * positive
    x, y = score[positive], score[~positive]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    variance = wins.mean(1).var(ddof=1) / x.size + wins.mean(0).var(ddof=1) / y.size
    area = wins.mean()
    half = 1.959964 * variance**0.5 / (area * (1 - area))
    expected = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    estimate = statistics.auc_interval(score, positive)
    assert np.allclose((estimate.low, estimate.high), expected, atol=1e-6)


def test_auc_of_perfect_separation_keeps_doubt() -> None:
    estimate = statistics.auc_interval([1, 2, 3, 4, 5, 6], [False, False, False, True, True, True])
    assert estimate.value == estimate.high == 1.0
    assert 0 < estimate.low < 1
    with pytest.raises(ValueError, match="positives and negatives"):
        statistics.auc_interval([1.0], [True])
