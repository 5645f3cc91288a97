"""The adversarial examples that a sweep saved, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustatt.plan import BoundPlan
from robustatt.results.images import ImageStore, SavedRows


@dataclass(frozen=True)
class AdversarialExamples:
    """Saved images and what is recorded of them, in the same order.

    `images` is float32 ``(n, c, h, w)`` in [0, 1]; `index`, `label` and `prediction` are int64 ``(n,)``; `eps` is the radius of
    each as text.
    """

    images: torch.Tensor
    index: torch.Tensor
    label: torch.Tensor
    prediction: torch.Tensor
    eps: tuple[str, ...]

    @classmethod
    def of(cls, saved: SavedRows) -> AdversarialExamples:
        """From saved rows."""
        index, label, prediction = (
            torch.tensor(saved.rows[name].tolist(), dtype=torch.int64) for name in ("index", "label", "adv_pred")
        )
        return cls(torch.from_numpy(saved.images), index, label, prediction, tuple(saved.rows["eps"]))

    def __len__(self) -> int:
        return len(self.eps)


def saved_in(directory: Path) -> SavedRows | None:
    """All images that a sweep saved; None if it saved none. InputError if they are of another format."""
    bound = BoundPlan.read(directory)
    keys = [cell.key for cell in bound.cells()]
    return ImageStore(bound.records or directory / "records", read_only=True).read_all(keys)
