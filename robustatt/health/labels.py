"""Do model and data speak of the same classes, in the same order? Decided from clean predictions alone, without
torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from robustatt.health.warning import HealthWarning
from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes

RESTORED = 0.6
"""Balanced accuracy the renamed classes must reach: a model that always says one class has 1/classes, at
most 0.5."""

GAIN = 0.1
"""Points of balanced accuracy a renaming must win on examples it was not chosen on: two classes of twenty
swapped."""


ENOUGH, SURELY_LEARNT = 20, 0.9
"""Accuracy is held against guessing from 20 images on; a model right on nine tenths has learnt something, however
uneven the classes are."""


def restored(fixed: int, spoilt: int) -> bool:
    """Whether a remedy fixes more than chance would: exact sign test on the examples it changes, p < 0.001.

    A dozen remedies are tried on a model, so a false alarm has a chance of about one in a hundred before the
    demands on the size of the gain, which chance cannot meet.
    """
    return fixed > spoilt and float(statistics.mcnemar_exact(fixed, spoilt)) < 1e-3


def _renaming(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The one-to-one renaming of predicted classes under which most examples are right."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes))
    np.add.at(counts, (predicted, truth), 1)
    counts += 0.5 * np.eye(classes)  # without evidence a class keeps its name
    renamed: NDArray[np.int64] = linear_sum_assignment(counts, maximize=True)[1].astype(np.int64)
    return renamed


def _balanced(right: NDArray[np.bool_], truth: NDArray[np.int64]) -> float:
    """Accuracy averaged over classes."""
    counts = np.bincount(truth)
    return float((np.bincount(truth, weights=right)[counts > 0] / counts[counts > 0]).mean())


def label_order(truth: NDArray[np.int64], predicted: NDArray[np.int64], model: str) -> HealthWarning | None:
    """Does a renaming of the classes, chosen on one half of the examples, restore accuracy on the other half?

    With many classes and few examples no renaming can be learnt, and images of one class cannot tell it from a model
    that always gives another: then there is no finding.
    """
    classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    right = predicted == truth
    if len(np.unique(truth)) < 2 or len(truth) < 2 * classes or (before := _balanced(right, truth)) + GAIN > 1:
        return None
    first = np.random.default_rng(0).permutation(len(truth)) < len(truth) / 2  # data may be sorted or cyclic
    then = np.zeros(len(truth), dtype=bool)
    for half in (first, ~first):
        names = _renaming(truth[half], predicted[half], classes)
        then[~half] = names[predicted[~half]] == truth[~half]
    after = _balanced(then, truth)
    if after < RESTORED or after < before + GAIN or not restored(int((then & ~right).sum()), int((right & ~then).sum())):
        return None
    return HealthWarning(
        "label-order",
        f"the clean accuracy of {before:.0%} becomes {after:.0%} if the model's classes are renamed one to "
        "one: model and data list their classes in a different order (folders are sorted by name).",
        "Compare the names (`robustatt data DATA` prints them) and give the model's order by --class-names FILE.",
        model,
        evidence={"balanced_accuracy": before, "balanced_accuracy_renamed": after},
    )


def like_guessing(right: int, n: int, guess: float) -> bool:
    """Whether `right` of `n` is not clearly more (Wilson, 95 %) than the share of the majority class."""
    return guess < 1 and float(statistics.wilson(right, n)[0]) <= guess


def like_chance(grid: Outcomes) -> Iterator[HealthWarning]:
    """Accuracy is not clearly above always guessing the majority class (Wilson, 95 %)."""
    n, right = len(grid.label), int((grid.clean_pred == grid.label).sum())
    guess = np.bincount(grid.label).max() / max(n, 1)
    if n >= ENOUGH and right / n < SURELY_LEARNT and like_guessing(right, n, guess):
        yield HealthWarning(
            "chance-accuracy",
            f"without any attack {right / n:.1%} of {n} images are classified right, and always guessing the majority "
            f"class would give {guess:.1%}: robustness of such a model means nothing.",
            "Look for missing weights, other data than it was trained on, or other labels.",
            grid.model,
            "",
            {"accuracy": right / n, "guess": float(guess), "of": n},
        )
