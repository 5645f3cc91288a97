"""A linear SVM on fixed features: its penalty chosen inside the training part, its answers on images it has not seen.

Features are standardised by the mean and deviation of the very images an SVM is fitted on, in the inner folds too,
so nothing of an image that is answered for ever enters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from robustatt.errors import InputError

#: penalties C in the order they are tried, from the strongest regularisation on
PENALTIES = tuple(10.0**power for power in range(-6, 2))
INNER_FOLDS = 3
#: of more training images than this, one inner fold is enough to choose C: it holds a thousand images or more
MANY = 3000
#: of the gradient's norm; a smaller one costs twice the time and moves accuracies by less than their intervals
TOLERANCE = 1e-2

Matrix = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Predicted labels ``(n,)`` of images that their SVM was not fitted on, the fold of each, and each fold's C."""

    predicted: Integers
    fold: Integers
    penalties: tuple[float, ...]


def answer_test_part(train: tuple[Matrix, Integers], test: Matrix, seed: int) -> Answers:
    """Fit on the whole training part, answer for the test part."""
    features, labels = train
    penalty = choose_penalty(features, labels, seed)
    predicted = svm(penalty).fit(features, labels).predict(test)
    return Answers(predicted, np.zeros(len(test), np.int64), (penalty,))


def answer_out_of_fold(features: Matrix, labels: Integers, folds: int, seed: int) -> Answers:
    """Each fold is answered for by an SVM fitted, its penalty too, on the other folds; classes in proportion.

    Folds run side by side in threads: the solver does not hold Python's lock.
    """
    parts = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels))
    with ThreadPoolExecutor(min(folds, os.cpu_count() or 1), thread_name_prefix="fold") as workers:
        answers = list(workers.map(lambda part: _answer_fold(features, labels, part, seed), parts))
    predicted, fold = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for number, ((_, test), (said, _)) in enumerate(zip(parts, answers, strict=True)):
        predicted[test], fold[test] = said, number
    return Answers(predicted, fold, tuple(penalty for _, penalty in answers))


def _answer_fold(features: Matrix, labels: Integers, part: tuple[Integers, Integers], seed: int) -> tuple[Integers, float]:
    train, test = part
    found = answer_test_part((features[train], labels[train]), features[test], seed)
    return found.predicted, found.penalties[0]


def svm(penalty: float) -> Pipeline:
    """Standardisation and a one-against-all linear SVM with squared hinge loss, solved in the primal."""
    return make_pipeline(StandardScaler(), LinearSVC(C=penalty, dual=False, tol=TOLERANCE))


def choose_penalty(features: Matrix, labels: Integers, seed: int) -> float:
    """The C that answers best for folds of these images (see ``MANY``), the smaller one where two are equal.

    Penalties are tried upwards until the accuracy falls: beyond that an SVM only overfits, and costs most.
    """
    inner = min(INNER_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    parts = list(StratifiedKFold(inner, shuffle=True, random_state=seed).split(features, labels))
    parts = parts[:1] if len(labels) > MANY else parts
    best, most = PENALTIES[0], -1
    for penalty in PENALTIES:
        right = sum(_right(features, labels, train, test, penalty) for train, test in parts)
        if right < most:
            break
        if right > most:
            best, most = penalty, right
    return best


def _right(features: Matrix, labels: Integers, train: Integers, test: Integers, penalty: float) -> int:
    fitted = svm(penalty).fit(features[train], labels[train])
    return int((fitted.predict(features[test]) == labels[test]).sum())


def check_folds(labels: Integers, classes: Sequence[str], folds: int, what: str) -> None:
    """Each class must be in every fold, and twice outside it, for C to be chosen there.

    Raises:
        InputError: names the class that is too small, or says that there is only one class.
    """
    present, counts = np.unique(labels, return_counts=True)
    _check_several(present, classes, what)
    smallest = int(counts.argmin())
    count, name = int(counts[smallest]), classes[int(present[smallest])]
    most = max((k for k in range(2, count + 1) if count - -(-count // k) >= 2), default=0)
    if count < folds or count - -(-count // folds) < 2:
        remedy = f"give --folds {most} or fewer" if most >= 2 else "take the class out, or give it 3 images or more"
        raise InputError(f"{what}: class {name!r} has {count} images for {folds} folds: {remedy}")


def check_training_part(labels: Integers, classes: Sequence[str], what: str) -> None:
    """Each class of the training part must be there twice, so that C can be chosen.

    Raises:
        InputError: names the class that is too small, or says that there is only one class.
    """
    present, counts = np.unique(labels, return_counts=True)
    _check_several(present, classes, what)
    smallest = int(counts.argmin())
    if counts[smallest] < 2:
        name = classes[int(present[smallest])]
        raise InputError(f"{what}: class {name!r} has 1 training image: give it 2 or more, or take it out")


def _check_several(present: Integers, classes: Sequence[str], what: str) -> None:
    if len(present) < 2:
        raise InputError(
            f"{what}: all images are of class {classes[int(present[0])]!r}: two classes are needed "
            "(of a set in order of class, take --sample N and not -n N)"
        )
