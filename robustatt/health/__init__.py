"""Warnings that a number cannot be trusted: each with a code, plain words, evidence and what to do.

`of_model` looks at a model on a few images before a sweep; `of_records` and `of_card` look at what a sweep
found; `deep` attacks the model for an answer, for `robustatt doctor --deep`. docs/health.md lists every code
with its threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustatt.health.warning import CODES, UNEXPLAINED, ZERO_GRADIENT_SHARE, Warning, distinct

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from robustatt.attack.recipe import Recipe
    from robustatt.data.dataset import Dataset
    from robustatt.models.checkpoint import Card

__all__ = [
    "CODES",
    "UNEXPLAINED",
    "ZERO_GRADIENT_SHARE",
    "Warning",
    "deep",
    "distinct",
    "of_card",
    "of_examples",
    "of_maps",
    "of_model",
    "of_records",
    "seen_in_training",
]


def of_model(
    module: nn.Module,
    label: str,
    probe: Tensor,
    labels: Tensor | None = None,
    original: nn.Module | None = None,
) -> list[Warning]:
    """What a few clean images tell of a model, for about four passes over them.

    Args:
        module: from images ``(n, channels, height, width)`` in [0, 1] to logits, as it will be evaluated.
        label: what to call it.
        probe: at most 64 images, spread over the data (of all classes if it is sorted by class).
        labels: their classes; without them input-range and label-order are not asked.
        original: the user's module with its own training flags, if `module` is a copy in evaluation mode.
    """
    from robustatt.health.model import inspect

    return inspect(module, label, probe, labels, original)


def of_maps(label: str, levels: Sequence[str]) -> list[Warning]:
    """What is said of a model whose own attention maps do not sum to 1, at these levels."""
    if not levels:
        return []
    return [
        Warning(
            "maps-normalised",
            f"the attention maps of {', '.join(levels)} do not sum to 1 for each image, and were divided by their sum: drift "
            "compares shares of attention, and would grow with the size of the maps. Return maps that sum to 1 to be sure "
            "that this is what they mean.",
            label,
            evidence={"levels": len(levels)},
        )
    ]


def of_examples(labels: NDArray[np.int64], n: int) -> list[Warning]:
    """Whether the first n examples of labels ``(all,)`` lack classes that a random draw would hold: first-classes."""
    from robustatt.health.data import first_classes

    return first_classes(labels, n)


def of_records(
    records: pd.DataFrame, recipes: Sequence[Recipe] = (), plan: Mapping[str, object] | None = None
) -> list[Warning]:
    """What the outcome itself gives away.

    Args:
        records: a row for each model, attack, radius and example.
        recipes: of the attacks that were run; shipped recipes are known by name.
        plan: as in summary.json, for the baselines of models.
    """
    from robustatt.health.records import examine

    return examine(records, recipes, plan)


def of_card(label: str, card: Card, dataset: Dataset, records: pd.DataFrame) -> list[Warning]:
    """What a model's card says against the data it was evaluated on: seen-in-training and card-mismatch."""
    from robustatt.health.data import of_card as compare

    return compare(label, card, dataset, records)


def seen_in_training(label: str, test: Tensor, train: Tensor) -> list[Warning]:
    """How many test images ``(n, c, h, w)`` are also among the training images, to the pixel (8 bits)?"""
    from robustatt.health.data import seen_in_training as search

    return search(label, test, train)


def deep(
    module: nn.Module, label: str, images: Tensor, labels: Tensor, seed: int = 0, train: Tensor | None = None
) -> list[Warning]:
    """The costly checks, by attacking the model: some thousand gradients and forward passes for 64 images.

    Args:
        module: from images in [0, 1] to logits; left as it was.
        label: what to call it.
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1]; 64 are enough.
        labels: their classes ``(n,)``.
        seed: of every random start.
        train: training images, to look for test images among them.
    """
    from robustatt.doctor.deep import diagnose

    return diagnose(module, label, images, labels, seed, train)
