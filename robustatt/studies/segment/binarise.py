"""From a map of where a model looks to a picture of the object: three ways, each stated, none tuned on what is reported.

A constant map prefers no pixel to another. It marks the whole picture, whichever way is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

WAYS = ("otsu", "quantile", "threshold")
#: candidates for the fitted threshold, as shares of a map's range; dense near 0, where peaked maps have their pixels
THRESHOLDS = np.square(np.linspace(0.0, 1.0, 201))
FLAT = 1e-6  # relative range below which a map is constant: single precision leaves about 1e-7


def is_constant(values: Map) -> bool:
    """Whether a map prefers no pixel: its range is lost in rounding. NaN or infinity is an error (ValueError)."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("a map holds NaN or infinity")
    return high - low <= FLAT * max(abs(low), abs(high))


def stretch(values: Map) -> NDArray[np.float64]:
    """The map moved and scaled to run from 0 to 1; a constant map becomes 1 everywhere."""
    if is_constant(values):
        return np.ones(values.shape)
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / (high - low)


def otsu(values: Map) -> Mask:
    """Pixels above Otsu's threshold (1979), which separates two classes of pixels best; 256 bins of the map's range."""
    from skimage.filters import threshold_otsu

    if is_constant(values):
        return np.ones(values.shape, dtype=bool)
    stretched = stretch(values)
    return np.asarray(stretched > float(threshold_otsu(stretched)))  # type: ignore[no-untyped-call]


def upper_share(values: Map, quantile: float) -> Mask:
    """The pixels at or above a quantile: 0.75 marks the most attended quarter, and all pixels tied with its last."""
    count = max(1, round((1 - quantile) * values.size))
    least = np.partition(values, values.size - count, axis=None)[values.size - count]
    return np.ones(values.shape, dtype=bool) if is_constant(values) else np.asarray(values >= least)


def above(values: Map, threshold: float) -> Mask:
    """The pixels whose place in the map's range, 0 to 1, is at or above the threshold."""
    return np.asarray(stretch(values) >= threshold)


def jaccard_by_threshold(values: Map, mask: Mask) -> NDArray[np.float64]:
    """The Jaccard index of ``above`` at each of ``THRESHOLDS``, ``(201,)``; the mask must not be empty."""
    place = np.searchsorted(THRESHOLDS, stretch(values).ravel(), side="right") - 1
    inside = mask.ravel()
    hit = np.bincount(place[inside], minlength=len(THRESHOLDS))[::-1].cumsum()[::-1]
    false = np.bincount(place[~inside], minlength=len(THRESHOLDS))[::-1].cumsum()[::-1]
    return np.asarray(hit / (inside.sum() + false), dtype=np.float64)
