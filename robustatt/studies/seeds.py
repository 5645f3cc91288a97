"""Networks that were trained from several seeds: which label is which network, and differences over images and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from robustatt.results import statistics
from robustatt.results.statistics import Estimate, FloatArray

SEED = "-seed"
ORDER = ("vgg", "vgg_gap", "vgg_pan", "vgg_att1", "vgg_att2", "vgg_att3", "vgg_cbam", "vit")
"""In which networks are listed."""

HOW = (
    "An interval is for new images and new training seeds at once: the variance of the images' mean difference plus that of "
    "each network's seeds, by Student's t with Satterthwaite's degrees of freedom. Two or three seeds say little of their "
    "spread, so such intervals are wide; where a network has one seed, the interval speaks of other images only and decides nothing."
)


def network_of(label: str) -> str:
    """The network of a label such as ``vgg_att2-seed1``."""
    return label.partition(SEED)[0]


def by_network(labels: Iterable[str]) -> dict[str, list[str]]:
    """The labels of each network, networks in the paper's order, seeds ascending."""
    found: dict[str, list[str]] = {}
    for label in sorted(labels, key=_rank):
        found.setdefault(network_of(label), []).append(label)
    return found


def _rank(label: str) -> tuple[int, str, int]:
    network, _, seed = label.partition(SEED)
    place = ORDER.index(network) if network in ORDER else len(ORDER)
    return place, network, int(seed) if seed.isdecimal() else 0


@dataclass(frozen=True)
class BySeed:
    """A quantity image by image: ``values`` is ``(seeds, images)``. What is ``fixed`` is not trained, such as a floor."""

    values: FloatArray
    fixed: bool = False

    @property
    def several(self) -> bool:
        """Whether its spread over seeds is known."""
        return self.fixed or len(self.values) > 1


@dataclass(frozen=True)
class SeedComparison:
    """One network minus another. ``by_seed``: each seed of the first minus the mean of the second; ``p`` is two-sided.

    ``over_seeds``: the interval speaks of other seeds too.
    """

    change: Estimate
    p: float
    by_seed: tuple[float, ...]
    over_seeds: bool


def compare(a: BySeed, b: BySeed) -> SeedComparison:
    """On the same images, in the same order."""
    return compare_on_average([(a, b)])


def compare_on_average(sets: Sequence[tuple[BySeed, BySeed]]) -> SeedComparison:
    """The same, averaged over data sets, each network with the same seeds on all of them."""
    firsts, seconds = ([side.values.mean(axis=1) for side in sides] for sides in zip(*sets, strict=True))
    gaps = [a.values.mean(axis=0) - b.values.mean(axis=0) for a, b in sets]
    image_variance = sum(float(gap.var(ddof=1)) / gap.size for gap in gaps) / len(sets) ** 2
    several = all(a.several and b.several for a, b in sets)
    return _compared(np.mean(firsts, axis=0), np.mean(seconds, axis=0), image_variance, min(gap.size for gap in gaps), several)


def compare_counts(right: Sequence[int], other: Sequence[int], n: int) -> SeedComparison:
    """Of shares of n images, a count for each seed, where it is not known which images: as of independent samples."""
    a, b = np.asarray(right) / n, np.asarray(other) / n
    image_variance = sum(float(share.mean() * (1 - share.mean())) for share in (a, b)) / n
    return _compared(a, b, image_variance, n, len(a) > 1 and len(b) > 1)


def _compared(a: FloatArray, b: FloatArray, image_variance: float, n: int, several: bool) -> SeedComparison:
    change, p = statistics.difference_over_seeds(a, b, image_variance, n)
    return SeedComparison(change, p, tuple((a - b.mean()).tolist()), several)


def shares(rights: Sequence[int], n: int) -> str:
    """Shares of n images in per cent: with Wilson's interval for one seed, otherwise each seed's, their mean and deviation."""
    if len(rights) == 1:
        low, high = statistics.wilson(rights[0], n)
        return f"{100 * rights[0] / n:.1f} % ({100 * float(low):.1f} to {100 * float(high):.1f}, one seed)"
    values = np.asarray(rights) / n
    each = ", ".join(f"{100 * value:.1f}" for value in values)
    return f"{100 * values.mean():.1f} % (seeds {each}; standard deviation {spread(values):.1f})"


def spread(values: FloatArray) -> float:
    """The standard deviation of shares over seeds, in percentage points."""
    return 100 * math.sqrt(float(values.var(ddof=1)))
