"""From a map of where a model looks to a picture of the object, and how well it finds the object, image by image.

Three ways to mark a region, each stated, none tuned on what is reported. A constant map prefers no pixel to another: it
marks the whole picture, whichever way, and is worth what chance is: its average precision, its pointing game and its share
of mass are the object's share of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
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


def area_over_thresholds(curve: NDArray[np.float64]) -> float:
    """The area under a curve of `jaccard_by_threshold`: its mean over thresholds drawn evenly from a map's range."""
    return float(np.trapezoid(curve, THRESHOLDS))


@dataclass(frozen=True)
class Overlap:
    """A marked region against the mask: all three are 0 where they share no pixel."""

    jaccard: float
    precision: float
    recall: float


def overlap(marked: Mask, mask: Mask) -> Overlap:
    """Jaccard index (intersection over union), precision and recall of a region ``(h, w)``; the mask is not empty."""
    shared, found, wanted = int((marked & mask).sum()), int(marked.sum()), int(mask.sum())
    if wanted == 0:
        raise ValueError("the mask is empty: no overlap with nothing is defined")
    return Overlap(shared / (found + wanted - shared), shared / found if found else 0.0, shared / wanted)


def average_precision(values: Map, mask: Mask) -> float:
    """Area under the precision-recall curve of a map's pixels, without a threshold: the sum of precision times gain.

    Tied pixels enter together, so their order does not matter (as in scikit-learn's ``average_precision_score``).
    """
    if is_constant(values):
        return float(mask.mean())
    order = np.argsort(values, axis=None)[::-1]
    ranked, hits = values.ravel()[order], np.cumsum(mask.ravel()[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / hits[-1])


def pointing(values: Map, mask: Mask) -> float:
    """The pointing game (Zhang et al. 2016): 1 if the highest pixel lies on the object, else 0.

    Where several pixels are highest, the share of them that lies on it. No margin around the object is given.
    """
    highest = np.ones(values.shape, bool) if is_constant(values) else values == values.max()
    return float(mask[highest].mean())


def mass_on_object(values: Map, mask: Mask) -> float:
    """The share of a non-negative map's sum that lies on the object."""
    if is_constant(values):
        return float(mask.mean())
    return float(values[mask].sum(dtype=np.float64) / values.sum(dtype=np.float64))


def measure(values: Map, mask: Mask, threshold: float, quantile: float) -> dict[str, float]:
    """Every measure of one map: overlaps as ``jaccard_otsu`` and so on, and those that need no threshold."""
    marked = {"otsu": otsu(values), "quantile": upper_share(values, quantile), "threshold": above(values, threshold)}
    found = {way: overlap(region, mask) for way, region in marked.items()}
    return {
        **{f"{name}_{way}": getattr(found[way], name) for way in WAYS for name in ("jaccard", "precision", "recall")},
        "jaccard_area": area_over_thresholds(jaccard_by_threshold(values, mask)),
        "average_precision": average_precision(values, mask),
        "pointing": pointing(values, mask),
        "mass": mass_on_object(values, mask),
    }
