"""A model and the few clean images on which it is looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FEW = 16
"""Images for the checks that need several passes: enough for the shares below, a quarter of the probe's
cost."""


@dataclass(frozen=True)
class ModelProbe:
    """A model and the few images on which it is looked at, with what it said of them."""

    module: nn.Module
    label: str
    image: Tensor
    truth: Tensor | None
    logits: Tensor

    @property
    def scale(self) -> float:
        """The size of the logits, against which a change is measured."""
        return float(self.logits.abs().max()) + 1e-12

    def query(self, image: Tensor) -> Tensor:
        """Logits in float32, without gradients."""
        with torch.no_grad():
            result: Tensor = self.module(image).float()
        return result
