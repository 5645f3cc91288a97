"""Intervals that hold at every look at a growing sample, and so also where somebody stops because of what was seen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from robustatt.results.statistics import FloatArray


def anytime(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Interval ``(low, high)`` of a share that holds at all n at once, elementwise: look as often as you like, stop when you like.

    A confidence sequence: the shares p at which the likelihood ratio of a Beta(1/2, 1/2) mixture against p stays below
    ``1 / (1 - confidence)``. At the true p this ratio is a martingale that begins at 1, so by Ville's inequality it ever gets
    there with a chance of at most ``1 - confidence`` (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021).
    """
    from scipy.special import betaln, xlog1py, xlogy

    k, total = np.broadcast_arrays(*(np.asarray(counts, np.float64) for counts in (successes, n)))
    if np.any((total < 0) | (k < 0) | (k > total)):
        raise ValueError("successes must lie between 0 and n")
    least = betaln(k + 0.5, total - k + 0.5) - betaln(0.5, 0.5) + math.log(1 - confidence)
    share = np.divide(k, total, out=np.full(k.shape, 0.5), where=total > 0)

    def limit(outside: float) -> FloatArray:
        inner, outer = share.copy(), np.full(k.shape, outside)
        for _ in range(60):
            middle = (inner + outer) / 2
            inside = xlogy(k, middle) + xlog1py(total - k, -middle) >= least
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        return outer

    return np.where(k == 0, 0.0, limit(0.0)), np.where(k == total, 1.0, limit(1.0))
