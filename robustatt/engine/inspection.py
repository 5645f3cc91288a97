"""What is known of data and models before anything is attacked or written."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from robustatt.attack.builder import build
from robustatt.data.dataset import Dataset
from robustatt.data.views import Sample, require_same_classes
from robustatt.engine.models import FrozenModels
from robustatt.errors import InputError, raised_by, said_of
from robustatt.evaluate.cell import load_images
from robustatt.evaluate.classifier import Classifier
from robustatt.evaluate.full_strength import require_craft
from robustatt.health.data import first_classes
from robustatt.health.model import check_maps, check_model
from robustatt.health.warning import HealthWarning
from robustatt.plan import BoundPlan, Plan
from robustatt.plan.surrogates import can_be_crafted

PROBE_IMAGES = 64  # for the health checks


@dataclass(frozen=True)
class Inspection:
    """Warnings, and the cards of models that have one."""

    warnings: list[HealthWarning]
    cards: dict[str, Any]


def inspect(bound: BoundPlan, dataset: Dataset, models: FrozenModels) -> Inspection:
    """Look at data and models before anything is written. InputError if a model cannot be used."""
    whole, requested = dataset, bound.requested
    labels = (whole.whole if isinstance(whole, Sample) else whole).labels
    warnings = [] if bound.plan.n is None else first_classes(labels.numpy(), requested)
    cards = {}
    for entry in bound.plan.loaded:
        module = models.module(entry)
        warnings += _inspect(models.get(entry), module, dataset, requested)
        cards[entry.name] = getattr(module, "card", None)
    return Inspection(warnings, cards)


def _inspect(classifier: Classifier, module: nn.Module, dataset: Dataset, examples: int) -> list[HealthWarning]:
    """Checks of a model before anything is written, on images spread over those that will be attacked."""
    spread = range(0, examples, max(1, examples // PROBE_IMAGES))[:PROBE_IMAGES]
    images, labels = load_images(dataset, spread, classifier)
    with raised_by(f"model {classifier.label!r}"):
        found = check_model(classifier.original, classifier.label, images, labels, module)
    return found + check_maps(classifier.label, classifier.unnormalised)


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
