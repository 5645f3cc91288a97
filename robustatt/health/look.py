"""A model and the few clean images on which it is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustatt.attack.border import border_margin
from robustatt.evaluate.classifier import Classifier

FEW = 16
"""Images for the checks that need passes of their own: enough for the shares that are judged."""


@dataclass(frozen=True)
class ModelProbe:
    """A model and the images on which it is looked at, with what it said of them.

    `logits`: of all images, up to rounding. `few`: at most `FEW` images, and `few_logits` what the module says of them in one
    batch. `border`: how far inside the box its gradients are taken (see `robustatt.attack.border`).
    """

    module: nn.Module
    label: str
    image: Float[Tensor, "n c h w"]
    truth: Int[Tensor, " n"] | None
    logits: Float[Tensor, "n classes"]
    few: Float[Tensor, "m c h w"]
    few_logits: Float[Tensor, "m classes"]
    border: float

    @staticmethod
    def of_module(module: nn.Module, label: str, image: Tensor, truth: Tensor | None = None) -> ModelProbe:
        """By passes made for it."""
        few = image[:FEW]
        with torch.no_grad():
            logits, few_logits = module(image).float(), module(few).float()
        border = border_margin(module, few) if bool(logits.isfinite().all()) else 0.0
        return ModelProbe(module, label, image, truth, logits, few, few_logits, border)

    @staticmethod
    def of_classifier(classifier: Classifier, image: Tensor, truth: Tensor, logits: Tensor | None = None) -> ModelProbe:
        """By what a classifier was frozen with, and its logits if they are known."""
        seen = classifier.seen
        if logits is None:
            with torch.no_grad():
                logits = seen.module(image).float()
        few = seen.image[:FEW], seen.logits[:FEW].float()
        return ModelProbe(seen.module, classifier.label, image, truth, logits, *few, classifier.box_margin)

    @property
    def scale(self) -> float:
        """The size of the logits, against which a change is measured."""
        return float(self.logits.abs().max()) + 1e-12

    def query(self, image: Tensor) -> Tensor:
        """Logits in float32, without gradients."""
        with torch.no_grad():
            result: Tensor = self.module(image).float()
        return result
