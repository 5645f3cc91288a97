"""The statistics behind every number the project prints: shares, intervals, paired tests, power.

Plain numpy in and out, no state. Counts are exact; a closed form is used where one exists and a seeded
bootstrap elsewhere. The mean of nothing is an error and not 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Interval(NamedTuple):
    """A confidence interval; both ends are included."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A point estimate with its confidence interval."""

    value: float
    low: float
    high: float


def normal_quantile(probability: float) -> float:
    """The standard normal quantile."""
    return NormalDist().inv_cdf(probability)


def two_sided(confidence: float) -> float:
    """How many standard deviations a two-sided interval reaches to either side."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return normal_quantile(0.5 + confidence / 2)


# Shares ---------------------------------------------------------------------------------------------------


def mean(values: ArrayLike) -> float:
    """The arithmetic mean; raises ValueError for an empty array, which has none."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("the mean of nothing is not defined: no examples")
    return float(array.mean())


def held_up_to(correct: ArrayLike) -> BoolArray:
    """Whether an example is right at this radius and all smaller ones: ``(n, radii)``, radii ascending.

    Norm balls are nested, so an image that fools the model inside a small ball also lies in every larger one.
    The mean over examples is the worst-case accuracy, which never rises with the radius.
    """
    held: BoolArray = np.logical_and.accumulate(np.asarray(correct), axis=1)
    return held


def wilson(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval ``(low, high)`` of a share, elementwise over counts.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with ``p = successes/n``: it stays in [0,
    1] and keeps its coverage near 0 and 1 (Wilson 1927; Brown, Cai & DasGupta 2001).
    """
    k, total = np.broadcast_arrays(*(np.asarray(counts, np.float64) for counts in (successes, n)))
    if np.any(total <= 0):
        raise ValueError("the share of nothing is not defined: n must be at least 1")
    if np.any((k < 0) | (k > total)):
        raise ValueError("successes must lie between 0 and n")
    z2 = two_sided(confidence) ** 2
    centre = (k + z2 / 2) / (total + z2)
    half = np.sqrt(z2 * (k * (total - k) / total + z2 / 4)) / (total + z2)
    return np.where(k == 0, 0.0, centre - half), np.where(k == total, 1.0, centre + half)


def mean_interval(
    total: ArrayLike, squares: ArrayLike, n: ArrayLike, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means with Student's t interval, elementwise from sums, sums of squares and counts: (mean, low, high).

    ``mean -+ t(n-1) s/sqrt(n)``; with a single example the interval is NaN. Counts must be at least 1.
    """
    from scipy.special import stdtrit

    s, q, count = (np.asarray(v, np.float64) for v in (total, squares, n))
    if np.any(count < 1):
        raise ValueError("the mean of nothing is not defined: n must be at least 1")
    average = s / count
    freedom = np.where(count > 1, count - 1, np.nan)
    variance = np.maximum(q - count * average**2, 0.0) / freedom
    half = stdtrit(freedom, 0.5 + confidence / 2) * np.sqrt(variance / count)
    return average, average - half, average + half


def fisher_exact(successes: ArrayLike, n: ArrayLike, others: ArrayLike, m: ArrayLike) -> FloatArray:
    """Two-sided p-value of Fisher's exact test that ``successes/n`` and ``others/m`` are one share, elementwise over counts ``(t,)``.

    The samples share no example. Sums the hypergeometric chances of all tables no likelier than the one seen (Fisher 1935).
    """
    from scipy.special import gammaln

    a, n_a, b, n_b = (v[:, None] for v in np.broadcast_arrays(*(np.asarray(v, np.int64) for v in (successes, n, others, m))))
    k, right = np.arange(int(n_a.max(initial=0)) + 1)[None], a + b

    def choose(total: NDArray[Any], of: NDArray[Any]) -> FloatArray:
        inside = (of >= 0) & (of <= total)
        part = np.clip(of, 0, total)
        return np.where(inside, gammaln(total + 1) - gammaln(part + 1) - gammaln(total - part + 1), -np.inf)

    chance = choose(n_a, k) + choose(n_b, right - k) - choose(n_a + n_b, right)
    unlikely = chance <= np.take_along_axis(chance, a, 1) + 1e-7
    return np.asarray(np.minimum((np.exp(chance) * unlikely).sum(1), 1.0))


# Paired comparisons ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedCounts:
    """The 2x2 table of two outcomes on the same examples: both right, only a, only b, neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: ArrayLike, b: ArrayLike) -> PairedCounts:
        """Count two boolean outcome arrays of shape ``(n,)``, aligned by example."""
        x, y = np.asarray(a, bool), np.asarray(b, bool)
        if x.shape != y.shape:
            raise ValueError(f"paired outcomes need the same examples: {x.shape} against {y.shape}")
        both, only_a, only_b = int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum())
        return cls(both, only_a, only_b, x.size - both - only_a - only_b)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.both + self.only_a + self.only_b + self.neither


def mcnemar_exact(b: ArrayLike, c: ArrayLike) -> FloatArray:
    """Two-sided p-value of McNemar's exact test from the discordant counts, elementwise.

    Under no difference ``b ~ Binomial(b + c, 1/2)``; ``p = min(1, 2 P(X <= min(b, c)))`` and 1 without
    discordant pairs (McNemar 1947). Examples on which both agree say nothing and do not enter.
    """
    from scipy.special import bdtr

    first, second = _discordant(b, c)
    return np.asarray(np.minimum(2.0 * bdtr(np.minimum(first, second), first + second, 0.5), 1.0))


def mcnemar_one_sided(worse: ArrayLike, better: ArrayLike) -> FloatArray:
    """One-sided p-value of McNemar's exact test that ``worse`` outweighs ``better``, elementwise over counts.

    ``P(X >= worse)`` for ``X ~ Binomial(worse + better, 1/2)``; 1 without discordant pairs.
    """
    from scipy.special import bdtr

    first, second = _discordant(worse, better)
    return np.asarray(bdtr(second, first + second, 0.5))


def _discordant(b: ArrayLike, c: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = np.broadcast_arrays(*(np.asarray(counts, np.int64) for counts in (b, c)))
    if np.any((first < 0) | (second < 0)):
        raise ValueError("discordant counts cannot be negative")
    return first, second


def holm(pvalues: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values, in the order given: ``(m,)`` to ``(m,)`` (Holm 1979).

    Rejecting where the adjusted value is <= alpha keeps the chance of any false alarm at alpha, whatever the
    dependence between the tests.
    """
    p = np.asarray(pvalues, np.float64)
    if not np.all((p >= 0) & (p <= 1)):  # NaN is neither
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def newcombe_paired(counts: PairedCounts, confidence: float = 0.95) -> Estimate:
    """The difference ``p_a - p_b`` of paired shares with Newcombe's hybrid score interval.

    Method 10 of Newcombe (1998), Statistics in Medicine 17:2635: the Wilson limits of both shares, squared
    and added with the correlation phi of the table (continuity-corrected) taken off.
    """
    e, f, g, h, n = counts.both, counts.only_a, counts.only_b, counts.neither, counts.n
    if n == 0:
        raise ValueError("the difference of nothing is not defined: no examples")
    a, b = (e + f) / n, (e + g) / n
    (low_a, low_b), (high_a, high_b) = wilson([e + f, e + g], [n, n], confidence)
    product = float(e + f) * (g + h) * (e + g) * (f + h)
    numerator = float(e) * h - float(f) * g
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    phi = float(numerator / product**0.5) if product else 0.0

    def add(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    return Estimate(
        a - b,
        max(-1.0, a - b - add(a - float(low_a), float(high_b) - b)),
        min(1.0, a - b + add(float(high_a) - a, b - float(low_b))),
    )


def paired_bootstrap(a: ArrayLike, b: ArrayLike, seed: int, resamples: int = 10_000, confidence: float = 0.95) -> Estimate:
    """Mean of ``a - b`` over the same examples ``(n,)`` with a seeded percentile bootstrap interval.

    Examples are drawn with replacement, both outcomes together (Efron & Tibshirani 1993, chapter 13). Only
    the counts of each distinct difference matter, so they are drawn from one multinomial: exact and quick.
    """
    difference = np.subtract(a, b, dtype=np.float64)
    if difference.ndim != 1 or difference.size == 0:
        raise ValueError("the bootstrap needs a non-empty array of paired values, shape (n,)")
    values, counts = np.unique(difference, return_counts=True)
    rng = np.random.default_rng(seed)
    n = difference.size
    means = np.empty(resamples)
    step = max(1, 4_000_000 // values.size)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = rng.multinomial(n, counts / n, size=size) @ values / n
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(difference.mean()), float(low), float(high))


def difference_over_seeds(
    a: ArrayLike, b: ArrayLike, image_variance: float, images: int, confidence: float = 0.95
) -> tuple[Estimate, float]:
    """Mean of a minus mean of b, each a value by training seed, for new images and new seeds at once; its two-sided p-value.

    The variance of the difference is that of the images (`image_variance`, of the means over seeds) plus that of the seeds of
    each side; Student's t with Satterthwaite's (1946) degrees of freedom. A side with one value is taken as it is: its
    seeds' spread is unknown.
    """
    from scipy.special import stdtr, stdtrit

    sides = [np.asarray(values, np.float64) for values in (a, b)]
    difference = mean(sides[0]) - mean(sides[1])
    parts = [(image_variance, images - 1), *((float(v.var(ddof=1)) / v.size, v.size - 1) for v in sides if v.size > 1)]
    parts = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not parts:
        return Estimate(difference, difference, difference), float(difference == 0)
    if min(freedom for _, freedom in parts) < 1:
        raise ValueError("the spread over images is not known from a single one")
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * total**0.5
    p = 2 * float(stdtr(freedom, -abs(difference) / total**0.5))
    return Estimate(difference, difference - half, difference + half), p


# Power ----------------------------------------------------------------------------------------------------


def mcnemar_power(n: int, difference: float, discordance: float, alpha: float = 0.05) -> float:
    """Power of a two-sided McNemar test on n examples against a true difference of paired shares.

    ``Phi((d sqrt(n) - z sqrt(psi)) / sqrt(psi - d^2))`` where psi is the share of examples on which both
    sides differ (Miettinen 1968; Connor 1987). The difference cannot exceed the discordance.
    """
    d = abs(difference)
    if n < 1:
        raise ValueError("power needs at least 1 example")
    if not 0 < discordance <= 1 or d > discordance:
        raise ValueError(f"need 0 < |difference| <= discordance <= 1, got {difference} and {discordance}")
    spread = discordance - d * d
    gap = d * n**0.5 - normal_quantile(1 - alpha / 2) * discordance**0.5
    if spread <= 0:
        return float(gap >= 0)
    return NormalDist().cdf(gap / spread**0.5)


def detectable_difference(n: int, discordance: float = 0.5, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference of paired shares that n examples detect with the given power.

    Solves `mcnemar_power` for the difference. The default discordance of 0.5 is that of two unrelated
    models at 50 % accuracy, the least favourable case; related models differ less and need fewer examples.
    Returns NaN where even a difference as large as the discordance would escape.
    """
    if mcnemar_power(n, discordance, discordance, alpha) < power:
        return float("nan")
    low, high = 0.0, discordance
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(n, middle, discordance, alpha) >= power else (middle, high)
    return high


# Ranking --------------------------------------------------------------------------------------------------


def _midranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, ties sharing their average."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse]
    return ranks


def auc_interval(score: ArrayLike, positive: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Area under the ROC curve of a score against a bool, both ``(n,)``, with DeLong's interval.

    The area is the chance that a positive scores above a negative, ties counting half (Mann & Whitney
    1947). Its variance comes from the placement values (DeLong, DeLong & Clarke-Pearson 1988, by midranks
    as in Sun & Xu 2014); the logit scale keeps the interval inside [0, 1]. Where that variance is 0 (perfect
    separation), the Hanley-McNeil (1982) variance at the area shrunk by half a pair is used. Raises unless
    both classes occur.
    """
    x, y = np.asarray(score, np.float64), np.asarray(positive, bool)
    m, n = int(y.sum()), int((~y).sum())
    if m == 0 or n == 0:
        raise ValueError("an area under the curve needs positives and negatives")
    if np.isnan(x).any():
        raise ValueError("the score holds NaN")
    ranks = _midranks(x)
    above = (ranks[y] - _midranks(x[y])) / n
    below = (ranks[~y] - _midranks(x[~y])) / m
    area = float(above.mean())
    variance = sum(float(v.var(ddof=1)) / v.size for v in (above, below) if v.size > 1)
    centre = area
    if variance == 0:
        centre = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
        q1, q2 = centre / (2 - centre), 2 * centre**2 / (1 + centre)
        variance = (centre * (1 - centre) + (m - 1) * (q1 - centre**2) + (n - 1) * (q2 - centre**2)) / (m * n)
    half = two_sided(confidence) * variance**0.5 / (centre * (1 - centre))
    logit = float(np.log(centre / (1 - centre)))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    return Estimate(area, min(float(low), area), max(float(high), area))
