"""Does the data fit what the model says of itself? The card's accuracy, and test images seen in training."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from robustatt.health.warning import HealthWarning

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from robustatt.data.dataset import Dataset
    from robustatt.models.card import Card

FAR = 0.05
"""Points between clean accuracy and the card's, besides an exact binomial test at p < 0.001: other
versions and machines move single images, a part of the data moves it by chance."""

MAX_DEVIATIONS = 4.0
"""Standard deviations by which more classes may be missing than from a random draw of as many images."""

SEEN = 0.01
"""Share of test images that are also in the training data. Public sets hold a few natural duplicates
(CIFAR-100's, under one in a hundred to the pixel); a mistaken split shares far more."""


def card_mismatch(label: str, accuracy: float, n: int, claimed: float) -> HealthWarning | None:
    """Is the clean accuracy on n examples far from the card's?"""
    if abs(accuracy - claimed) < FAR:
        return None
    from scipy.stats import binomtest

    if binomtest(round(accuracy * n), n, min(max(claimed, 1e-6), 1 - 1e-6)).pvalue >= 1e-3:
        return None
    return HealthWarning(
        "card-mismatch",
        f"clean accuracy is {accuracy:.1%} on {n} images, but the model's card says {claimed:.1%}: weights, "
        "data or preparation of the images are not those of the card.",
        "Compare data set, split, image size and normalisation.",
        label,
        evidence={"accuracy": accuracy, "card": claimed, "of": n},
    )


def first_classes(labels: NDArray[np.int64], n: int) -> list[HealthWarning]:
    """Whether the first n examples of labels ``(all,)`` lack classes that a random draw would hold: first-classes."""
    counts = np.bincount(labels)
    absent = (1 - counts[counts > 0] / len(labels)) ** n  # probability of each class in a random draw
    of, there = len(absent), len(np.unique(labels[:n]))
    if of - there <= absent.sum() + MAX_DEVIATIONS * np.sqrt((absent * (1 - absent)).sum()):
        return []
    found = HealthWarning(
        "first-classes",
        f"the first {n} of {len(labels):,} images hold {there} of {of} classes: the data is sorted by class, and accuracy on "
        "these says nothing of the others.",
        "Draw the images at random with --sample in place of -n.",
        evidence={"classes": there, "of": of, "images": n},
    )
    return [found]


def seen_in_training(label: str, test: Tensor, train: Tensor) -> list[HealthWarning]:
    """How many test images ``(n, c, h, w)`` are also among the training images, to the pixel (8 bits)?"""
    known = set(_hashes(train))
    shared = sum(one in known for one in _hashes(test))
    if shared < 2 or shared < SEEN * len(test):
        return []
    found = HealthWarning(
        "seen-in-training",
        f"{shared} of {len(test)} test images are also among the training images, to the pixel: the model "
        "knows them, and its accuracy is not that on new images.",
        "Check how the data was split.",
        label,
        evidence={"seen": shared, "of": len(test)},
    )
    return [found]


def same_set(card: Card, dataset: Dataset) -> bool:
    """Whether the card speaks of this data set: of the same name, wherever its folder lies, with the same classes."""
    classes = card.class_names or dataset.classes
    return PurePath(card.data).name == PurePath(dataset.name).name and tuple(classes) == tuple(dataset.classes)


def _hashes(images: Tensor) -> list[bytes]:
    """A hash of each image as 8-bit pixels."""
    pixels = images if not images.is_floating_point() else (images * 255).round()
    array = np.ascontiguousarray(pixels.cpu().numpy().astype(np.uint8))
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in array]


def check_card(label: str, card: Card, dataset: Dataset, records: pd.DataFrame) -> list[HealthWarning]:
    """What a model's card says against the data it was evaluated on; nothing where the data is another."""
    if dataset.fingerprint == card.data_fingerprint:
        return [
            HealthWarning(
                "seen-in-training",
                f"the model's card says it was trained on exactly these {len(dataset):,} images ({dataset.name} "
                f"{dataset.split}): its accuracy is not that on new images.",
                "Evaluate on the test split.",
                label,
                evidence={"seen": len(dataset), "of": len(dataset)},
            )
        ]
    clean = records[(records["model"] == label) & (records["eps"] == "0/255")].drop_duplicates("index")
    if not same_set(card, dataset) or dataset.split != "test" or card.clean_accuracy is None or clean.empty:
        return []
    right = float((clean["label"] == clean["clean_pred"]).mean())
    found = card_mismatch(label, right, len(clean), card.clean_accuracy)
    return [found] if found else []
