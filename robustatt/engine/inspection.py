"""What is known of data and models before anything is attacked or written."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robustatt.attack.builder import build
from robustatt.data.dataset import Dataset
from robustatt.data.views import Sample, require_same_classes
from robustatt.engine.models import FrozenModels
from robustatt.errors import InputError, NonFiniteLogits, raised_by, said_of
from robustatt.evaluate.cell import load_images
from robustatt.evaluate.classifier import Classifier
from robustatt.evaluate.full_strength import require_craft
from robustatt.health.data import first_classes
from robustatt.health.look import ModelProbe
from robustatt.health.model import check_maps, examine
from robustatt.health.warning import HealthWarning
from robustatt.plan import BoundPlan, Plan
from robustatt.plan.surrogates import can_be_crafted

PROBE_IMAGES = 64  # for the health checks
NOT_REPEATABLE = {"randomised", "training-mode", "batch-dependent"}


@dataclass(frozen=True)
class Inspection:
    """Warnings, and the cards of models that have one."""

    warnings: list[HealthWarning]
    cards: dict[str, Any]


def inspect(bound: BoundPlan, dataset: Dataset, models: FrozenModels, batch_size: int) -> Inspection:
    """Look at data and models before anything is written. InputError if a model cannot be used."""
    whole, requested = dataset, bound.requested
    labels = (whole.whole if isinstance(whole, Sample) else whole).labels
    warnings = [] if bound.plan.n is None else first_classes(labels.numpy(), requested)
    cards = {}
    for entry in bound.plan.loaded:
        module = models.module(entry)
        warnings += _inspect(models.get(entry), module, dataset, requested, batch_size)
        cards[entry.name] = getattr(module, "card", None)
    return Inspection(warnings, cards)


def _inspect(classifier: Classifier, module: nn.Module, dataset: Dataset, examples: int, batch_size: int) -> list[HealthWarning]:
    """Checks of a model before anything is written, on images spread over those that will be attacked.

    Of a few examples all are looked at, in the batches in which the sweep will ask for them, so that it need not ask again.
    """
    spread = range(0, examples, max(1, examples // PROBE_IMAGES))[:PROBE_IMAGES]
    images, labels = load_images(dataset, spread, classifier)
    with raised_by(f"model {classifier.label!r}"):
        logits = _looked_ahead(classifier, dataset, images, labels, batch_size) if examples <= PROBE_IMAGES else None
        found = examine(ModelProbe.of_classifier(classifier, images, labels, logits), module)
    if NOT_REPEATABLE & {warning.code for warning in found}:
        classifier.forget_ahead()
    return found + check_maps(classifier.label, classifier.unnormalised)


def _looked_ahead(
    classifier: Classifier, dataset: Dataset, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> torch.Tensor | None:
    index = dataset.original(range(len(labels))).to(classifier.device)
    try:
        return classifier.look_ahead(images, labels, index, batch_size).logits
    except NonFiniteLogits:  # a finding of the checks
        return None


def require_surrogates(plan: Plan, dataset: Dataset, models: FrozenModels) -> None:
    """InputError if what is crafted on a surrogate means nothing to the models, or an attack has no image for a radius."""
    for entry in plan.crafted_on:
        with nullcontext() if entry in plan.models else said_of("surrogate"):
            classifier = models.get(entry)
            require_same_classes(dataset, classifier.classes, classifier.label)
        for target in map(models.get, plan.models):
            if target.classes != classifier.classes:
                raise InputError(
                    f"surrogate {entry.name!r} has {classifier.classes} classes and model {target.label!r} {target.classes}: examples "
                    "of the one are of no use for the other"
                )
        for recipe in filter(can_be_crafted, plan.attacks):
            require_craft(build(recipe, classifier.classes))
