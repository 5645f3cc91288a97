"""Does a model want its pixels in another range than [0, 1]?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
from torch import Tensor

from robustatt.health.labels import SURELY_LEARNT, restored
from robustatt.health.look import ModelProbe
from robustatt.health.warning import HealthWarning

GAIN = 0.10
"""Points of accuracy by which undoing a normalisation must help, besides an exact sign test at p < 0.001."""

MAX_ERRORS_LEFT = 0.75
"""A remedy must take away a quarter of the errors: a network that has learnt little gains some points by brighter images."""

SCREEN = 8
"""Misclassified images on which all remedies are tried first; only the two best are tried on all images."""

Transform = Callable[[Tensor], Tensor]

CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST's": ((0.1307,), (0.3081,)),
    "0.5 and 0.5": ((0.5,), (0.5,)),
}


def _candidates(image: Tensor) -> Iterator[tuple[str, Transform]]:
    """The usual ways of getting the range wrong: what to do to the images, and what it would mean if that
    helped."""
    axes = (0, 2, 3)
    own = (tuple(image.mean(axes).tolist()), tuple(image.std(axes).clamp_min(1e-3).tolist()))
    for name, (mean, std) in {**CONSTANTS, "these images' own": own}.items():
        m, s = (image.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        if m.shape[1] not in (1, image.shape[1]):
            continue
        yield (
            f"images normalised by {name} mean and deviation: the normalisation is missing",
            _affine(1 / s, -m / s),
        )
        yield (
            f"images with a normalisation by {name} mean and deviation undone: it is applied twice",
            _affine(s, m),
        )
    yield "pixels from 0 to 255", _affine(image.new_tensor(255.0), image.new_tensor(0.0))
    yield (
        "pixels from 0 to 1/255: it divides by 255 once more",
        _affine(image.new_tensor(1 / 255), image.new_tensor(0.0)),
    )


def _affine(factor: Tensor, offset: Tensor) -> Transform:
    return lambda image: image * factor + offset


def _promising(look: ModelProbe, right: Tensor, needed: int) -> list[tuple[str, Transform]]:
    """The two remedies that mend most of a few misclassified images, and at least half of the share that is `needed` of all.

    Two, since a missing normalisation is corrected by several sets of constants about equally well.
    """
    assert look.truth is not None
    wrong = (~right).nonzero().flatten().cpu().numpy()
    few = np.random.default_rng(0).permutation(wrong)[:SCREEN].tolist()  # data may be sorted or cyclic
    image, truth = look.image[few], look.truth[few]
    scored = [(int((look.query(to(image)).argmax(1) == truth).sum()), name, to) for name, to in _candidates(look.image)]
    best = sorted(scored, key=lambda entry: -entry[0])[:2]
    return [(name, to) for score, name, to in best if score >= max(1, 0.5 * len(few) * needed / len(wrong))]


def _needed(wrong: int, of: int) -> int:
    """How many of the misclassified images a remedy must mend at the least, if it spoils none."""
    fewest = max(GAIN * of, (1 - MAX_ERRORS_LEFT) * wrong)
    return next(fixed for fixed in count(math.ceil(fewest)) if restored(fixed, 0))


def input_range(look: ModelProbe) -> HealthWarning | None:
    """Is the model much better on images in another range than [0, 1]?

    Asked only where it is right on at most nine tenths of the images, else there is nothing to gain, and
    where no class has more than half of them, else a model that always gives one class could gain by
    accident.
    """
    truth = look.truth
    assert truth is not None
    right = look.logits.argmax(1) == truth
    if len(truth) < 16 or float(right.float().mean()) > 1 - GAIN or int(truth.bincount().max()) > len(truth) / 2:
        return None
    wrong = int((~right).sum())
    needed = _needed(wrong, len(truth))
    if wrong < needed:
        return None
    best, gain, what = right, 0.0, ""
    for name, transform in _promising(look, right, needed):
        then = look.query(transform(look.image)).argmax(1) == truth
        by = float(then.float().mean() - right.float().mean())
        if by > gain:
            best, gain, what = then, by, name
    fixed, spoilt = int((best & ~right).sum()), int((right & ~best).sum())
    before, after = float(right.float().mean()), float(best.float().mean())
    if gain < GAIN or 1 - after > MAX_ERRORS_LEFT * (1 - before) or not restored(fixed, spoilt):
        return None
    if after < SURELY_LEARNT:
        what += ", or the network has learnt too little for its range to be told"
    return HealthWarning(
        "input-range",
        f"on images in [0, 1] the model is right on {before:.0%} of the clean images, but on {after:.0%} if given {what}.",
        "Make normalisation part of the model, once, so that it takes images in [0, 1] (for external models: --normalize).",
        look.label,
        evidence={"accuracy": before, "accuracy_then": after},
    )
