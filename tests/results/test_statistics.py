"""Every statistic against an independent implementation or a published value."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

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


@pytest.mark.parametrize(("k", "n", "said"), [(0, 0, "nothing"), (1, 0, "nothing"), (3, 2, "between"), (-1, 2, "between")])
def test_wilson_refuses_impossible_counts(k: int, n: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        statistics.wilson(k, n)


def test_wilson_ends_at_0_and_1_exactly() -> None:
    n = np.arange(1, 1000)
    assert (statistics.wilson(0, n)[0] == 0).all()
    assert (statistics.wilson(n, n)[1] == 1).all()


@pytest.mark.parametrize("confidence", [0, 1, 1.5, -0.5])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        statistics.wilson(1, 2, confidence)


def test_counts_of_small_integers_do_not_overflow() -> None:
    small, large = np.array([200], np.uint8), np.array([250], np.uint8)
    assert np.allclose(np.ravel(statistics.wilson(small, large)), statistics.wilson(200, 250))
    assert statistics.mcnemar_exact(small, large) == pytest.approx(float(statistics.mcnemar_exact(200, 250)))
    assert statistics.mcnemar_one_sided(large, small) == pytest.approx(float(statistics.mcnemar_one_sided(250, 200)))


def test_means_of_float32_are_those_of_float64() -> None:
    values = np.array([2**24, 1, 1, 1], np.float32)
    assert statistics.mean(values) == (2**24 + 3) / 4
    s, q = np.float32(12289), np.float32(2**26)
    assert statistics.mean_interval(s, q, np.float32(3)) == statistics.mean_interval(float(s), float(q), 3)


def test_mean_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="nothing"):
        statistics.mean([])
    with pytest.raises(ValueError, match="nothing"):
        statistics.mean_interval([1.0, 0.0], [1.0, 0.0], [1, 0])


def test_held_up_to_never_recovers() -> None:
    assert statistics.held_up_to([[True, False, True], [True, True, True]]).tolist() == [
        [True, False, False],
        [True, True, True],
    ]
    assert statistics.held_up_to([[2, 1, 0, 1]]).tolist() == [[True, True, False, False]]


def test_mean_interval_equals_scipy() -> None:
    from scipy import stats

    sample = np.random.default_rng(0).gamma(2.0, size=23)
    average, low, high = statistics.mean_interval(sample.sum(), (sample**2).sum(), sample.size)
    expected = stats.t.interval(0.95, 22, loc=sample.mean(), scale=stats.sem(sample))
    assert np.allclose([average, low, high], [sample.mean(), *expected])
    assert math.isnan(statistics.mean_interval(1.0, 1.0, 1)[1])
    pair = stats.t.interval(0.9, 1, loc=2.0, scale=stats.sem([1.0, 3.0]))
    assert np.allclose(statistics.mean_interval(4.0, 10.0, 2, confidence=0.9), [2.0, *pair])
    assert statistics.mean_interval(3 * 0.5, 3 * 0.25, 3) == (0.5, 0.5, 0.5)  # no spread, no width


def test_pairs_are_counted() -> None:
    a, b = [1, 1, 2, 0, 0, 0, 0, 0, 1, 1], [2, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    counts = statistics.PairedCounts.of(a, b)
    assert counts == statistics.PairedCounts(both=1, only_a=4, only_b=3, neither=2)
    assert counts.n == 10
    with pytest.raises(ValueError, match="same examples"):
        statistics.PairedCounts.of(a, b[:9])


def test_mcnemar_equals_statsmodels_and_binomial() -> None:
    from scipy.stats import binomtest

    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for b, c in [(0, 0), (1, 0), (5, 5), (10, 2), (0, 12), (40, 61), (500, 400)]:
        ours = float(statistics.mcnemar_exact(b, c))
        if b + c:
            assert ours == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
        assert ours == pytest.approx(tables.mcnemar([[3, b], [c, 4]], exact=True).pvalue, rel=1e-9)
    for b, c in [(-1, 2), (2, -1)]:
        with pytest.raises(ValueError, match="negative"):
            statistics.mcnemar_exact(b, c)


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
    assert statistics.holm([0.3]).tolist() == [0.3]
    assert statistics.holm([1, 0]).tolist() == [1, 0]
    assert statistics.holm([0.25, 0.25, 0.75]).tolist() == [0.75, 0.75, 0.75]
    assert statistics.holm(p.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm([0.5, wrong])


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


@pytest.mark.parametrize(
    ("table", "confidence"),
    [
        ((5, 4, 6, 5), 0.95),  # phi is positive, and less than its continuity correction
        ((6, 4, 0, 0), 0.95),  # phi is not defined where one share is 1
        ((12, 28, 18, 42), 0.8),
    ],
)
def test_newcombe_with_phi_of_0_equals_statsmodels(table: tuple[int, int, int, int], confidence: float) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    counts = statistics.PairedCounts(*table)
    estimate = statistics.newcombe_paired(counts, confidence)
    a, b = counts.both + counts.only_a, counts.both + counts.only_b
    expected = proportion.confint_proportions_2indep(a, counts.n, b, counts.n, method="newcomb", alpha=1 - confidence)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


def test_newcombe_of_outcomes_that_agree() -> None:
    """Half right under both: phi is 1 less its correction 50/2500, so the Wilson limit shrinks by sqrt(2 x 0.02) = 0.2."""
    _, high = statistics.wilson(50, 100)
    assert statistics.newcombe_paired(statistics.PairedCounts(50, 0, 0, 50)) == pytest.approx(
        (0.0, -0.2 * (float(high) - 0.5), 0.2 * (float(high) - 0.5))
    )
    low, high = statistics.newcombe_paired(statistics.PairedCounts(1, 0, 0, 0))[1:]
    assert -1 < low == -high < 0
    with pytest.raises(ValueError, match="nothing"):
        statistics.newcombe_paired(statistics.PairedCounts(0, 0, 0, 0))


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


def test_paired_bootstrap_of_a_constant_and_of_many_values() -> None:
    assert statistics.paired_bootstrap([0.75] * 4, [0.5] * 4, seed=0, resamples=1) == (0.25, 0.25, 0.25)
    a = np.random.default_rng(8).normal(size=1000)
    many = statistics.paired_bootstrap(a, np.zeros(1000), seed=1, resamples=5000, confidence=0.5)  # in two draws
    error = a.std() / 1000**0.5
    assert many == statistics.paired_bootstrap(a, np.zeros(1000), seed=1, resamples=5000, confidence=0.5)
    assert many.value == pytest.approx(a.mean())
    assert many.low == pytest.approx(a.mean() - 0.6745 * error, abs=0.08 * error)
    assert many.high == pytest.approx(a.mean() + 0.6745 * error, abs=0.08 * error)
    assert statistics.paired_bootstrap([1.0], [0.0], seed=0, resamples=9) == (1, 1, 1)
    for wrong in ([], [[0.5, 1.0]]):
        with pytest.raises(ValueError, match="non-empty"):
            statistics.paired_bootstrap(wrong, wrong, seed=0)


def test_power_by_simulation() -> None:
    n, d, psi = 500, 0.06, 0.2
    rng = np.random.default_rng(4)
    cells = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=4000)
    chi = (cells[:, 0] - cells[:, 1]) ** 2 / (cells[:, 0] + cells[:, 1]) > statistics.normal_quantile(0.975) ** 2
    assert statistics.mcnemar_power(n, d, psi) == pytest.approx(chi.mean(), abs=0.03)


def test_power_by_hand() -> None:
    """d sqrt(n) = 3, z sqrt(psi) = 2.4 and sqrt(psi - d^2) = 0.6: the power is Phi(1)."""
    alpha = 2 * NormalDist().cdf(-2.4 / 0.45**0.5)
    assert statistics.mcnemar_power(100, 0.3, 0.45, alpha) == pytest.approx(0.841344746)
    assert statistics.mcnemar_power(100, -0.3, 0.45, alpha) == pytest.approx(0.841344746)


def test_power_where_every_example_changes_sides_alike() -> None:
    """Nothing is left to chance: 4 examples give 2 standard deviations, 3 give 1.73; significant is 1.96."""
    assert [statistics.mcnemar_power(n, 1.0, 1.0) for n in (1, 3, 4)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("n", "d", "psi"), [(0, 0.1, 0.2), (9, 0.0, 0.0), (9, 0.1, 1.1), (9, 0.3, 0.2), (9, -0.3, 0.2)])
def test_power_of_the_impossible_is_refused(n: int, d: float, psi: float) -> None:
    with pytest.raises(ValueError, match="need"):
        statistics.mcnemar_power(n, d, psi)


def test_detectable_difference_inverts_power() -> None:
    d = statistics.detectable_difference(1000, discordance=0.1)
    assert statistics.mcnemar_power(1000, d, 0.1) == pytest.approx(0.8, abs=1e-6)
    assert statistics.detectable_difference(10_000) < statistics.detectable_difference(100)
    assert math.isnan(statistics.detectable_difference(10, discordance=0.01))
    d = statistics.detectable_difference(100, discordance=0.04, alpha=0.5, power=0.7)  # at 0.05, not even 0.04 would do
    assert statistics.mcnemar_power(100, d, 0.04, 0.5) == pytest.approx(0.7, abs=1e-6)


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


@pytest.mark.parametrize(("m", "n"), [(80, 120), (2, 3), (3, 2), (1, 4), (4, 1)])
def test_auc_variance_equals_definition(m: int, n: int) -> None:
    rng = np.random.default_rng(7)
    positive = (np.arange(m + n) < m).astype(int)
    score = rng.normal(size=m + n) + 0.8 * positive
    score[0], score[m] = 0.5, 0.6  # so that the classes overlap
    x, y = score[:m], score[m:]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    variance = sum(wins.mean(axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1) if wins.shape[1 - axis] > 1)
    area = wins.mean()
    half = 1.959964 * variance**0.5 / (area * (1 - area))
    expected = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    estimate = statistics.auc_interval(score, positive)
    assert np.allclose((estimate.low, estimate.high), expected, atol=1e-6)


def test_midranks_equal_scipy() -> None:
    from scipy.stats import rankdata

    values = np.array([3.0, 1.0, 3.0, 2.0, 3.0, 1.0, 9.0])
    assert statistics._midranks(values).tolist() == rankdata(values).tolist()


@pytest.mark.parametrize(("m", "n"), [(3, 3), (2, 6), (6, 2), (1, 1)])
@pytest.mark.parametrize("area", [0, 1])
def test_auc_variance_of_perfect_separation_is_that_of_exponential_scores(area: int, m: int, n: int) -> None:
    """Hanley and McNeil's variance, from the covariances of all pairs of comparisons, by numerical integration."""
    from scipy.integrate import quad

    shrunk = abs(area - 0.5 / (m * n))
    rate = (1 - shrunk) / shrunk  # of the positives; the negatives' is 1

    def positive_density(x: float) -> float:
        return float(rate * np.exp(-rate * x))

    two_above = quad(lambda y: np.exp(-rate * y) ** 2 * np.exp(-y), 0, np.inf)[0]
    two_below = quad(lambda x: (1 - np.exp(-x)) ** 2 * positive_density(x), 0, np.inf)[0]
    covariance = {(True, True): shrunk, (False, True): two_above, (True, False): two_below}
    pairs = list(itertools.product(range(m), range(n)))
    shared = [(one[0] == other[0], one[1] == other[1]) for one in pairs for other in pairs]
    variance = sum(covariance[which] - shrunk**2 for which in shared if any(which)) / (m * n) ** 2
    half = 1.959964 * variance**0.5 / (shrunk * (1 - shrunk))
    inner = 1 / (1 + np.exp(-(np.log(shrunk / (1 - shrunk)) + (half if area == 0 else -half))))
    estimate = statistics.auc_interval(np.arange(m + n), (np.arange(m + n) >= n) if area else (np.arange(m + n) < m))
    assert estimate == pytest.approx((0, 0, inner) if area == 0 else (1, inner, 1), abs=1e-6)


def test_auc_of_perfect_separation_keeps_doubt() -> None:
    estimate = statistics.auc_interval([1, 2, 3, 4, 5, 6], [False, False, False, True, True, True])
    assert estimate.value == estimate.high == 1.0
    assert 0 < estimate.low < 1
    for label in (True, False):
        with pytest.raises(ValueError, match="positives and negatives"):
            statistics.auc_interval([1.0], [label])
    with pytest.raises(ValueError, match="NaN"):
        statistics.auc_interval([1.0, math.nan], [True, False])
