"""What a user asks `segment` for, checked, and which images that means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from robustatt.errors import InputError
from robustatt.plan import ModelEntry
from robustatt.plan.checks import require_at_least_one, require_one_choice, require_seed, require_some, require_unique
from robustatt.studies.segment.floors import FLOOR

HELD_OUT = 0.2
FEWEST = 5


@dataclass(frozen=True)
class SegmentRequest:
    """What to measure.

    Args:
        models: see ``robustatt.plan.model_entries``.
        data, masks: see ``robustatt.studies.segment.masks.open_masked``.
        trained_on: the data set whose bundled weights are taken.
        n, sample: the first n images, or so many drawn by the seed; all if both are None.
        scales: shorter sides in pixels; None for 1, 1.5 and 2 times the side a network was trained on.
        eps: radii in [0, 1] to attack at; none for clean images only.
        attack: a recipe, see ``robustatt attacks``.
        attack_n: only the first so many of the reported images are attacked; all if None.
        quantile: the fixed quantile; 0.75 marks the most attended quarter of a picture.
    """

    models: tuple[ModelEntry, ...]
    data: Path
    masks: Path | None = None
    trained_on: str = "cifar10"
    n: int | None = None
    sample: int | None = None
    scales: tuple[int, ...] | None = None
    eps: tuple[Fraction, ...] = ()
    attack: str = "pgd"
    attack_n: int | None = None
    quantile: float = 0.75
    seed: int = 0
    batch_size: int = 16
    device: str = "auto"

    def __post_init__(self) -> None:
        require_some(self.models, "no model: give at least one, such as --model vgg_att3")
        names = [entry.name for entry in self.models]
        require_unique("model", names)
        if FLOOR in names:
            raise InputError(f"model {FLOOR!r} is taken: give another name")
        require_one_choice(self.n, self.sample, "images")
        require_at_least_one("--batch-size", self.batch_size)
        require_at_least_one("--attack-n", self.attack_n)
        if not 0 < self.quantile < 1:
            raise InputError(f"--quantile {self.quantile}: give a share above 0 and below 1, such as 0.75")
        require_seed(self.seed)
        if self.scales is not None and (not self.scales or min(self.scales) < 32):
            raise InputError(f"--scales {self.scales}: give pixels of the shorter side, 32 or more, such as 32,48,64")


@dataclass(frozen=True)
class Split:
    """Positions of the images that choose thresholds, and of those that are reported; both ascending."""

    held_out: list[int]
    reported: list[int]


def choose(count: int, n: int | None, sample: int | None, seed: int) -> list[int]:
    """Positions of the images to use, ascending; InputError for too few or more than there are."""
    flag, wanted = ("--sample", sample) if sample is not None else ("-n", count if n is None else n)
    if not FEWEST <= wanted <= count:
        remedy = f"give {FEWEST} to {count}" if count >= FEWEST else f"at least {FEWEST} are needed"
        raise InputError(f"{flag} {wanted}: there are {count} images: {remedy}")
    if sample is None:
        return list(range(wanted))
    return sorted(np.random.default_rng([seed, 1]).choice(count, wanted, replace=False).tolist())


def split(chosen: Sequence[int], seed: int) -> Split:
    """A fifth, drawn by the seed, held out to choose thresholds on; the rest is reported."""
    shuffled = np.random.default_rng([seed, 2]).permutation(np.asarray(chosen)).tolist()
    count = max(1, round(HELD_OUT * len(shuffled)))
    return Split(sorted(shuffled[:count]), sorted(shuffled[count:]))
