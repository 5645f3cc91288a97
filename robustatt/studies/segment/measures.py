"""How well a map or a marked region finds an object, image by image, against its mask.

A constant map says nothing about the object, and is worth what chance is: its average precision, its pointing
game and its share of mass are the object's share of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustatt.studies.segment.binarise import WAYS, Map, Mask, above, is_constant, otsu, upper_share


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
        "average_precision": average_precision(values, mask),
        "pointing": pointing(values, mask),
        "mass": mass_on_object(values, mask),
    }
