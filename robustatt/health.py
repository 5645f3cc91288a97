"""Warnings that a number cannot be trusted: each with a code, plain words, evidence and what to do.

`of_model` looks at a model on a few images before a sweep; `of_records` looks at what a sweep found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn


@dataclass(frozen=True)
class Warning:  # noqa: A001 - the field's word for it; only used as health.Warning
    """One reason for doubt. `model` and `attack` are empty where it concerns all of them."""

    code: str
    message: str
    model: str = ""
    attack: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As summary.json holds it."""
        return asdict(self)


def of_model(module: nn.Module, label: str, probe: torch.Tensor) -> list[Warning]:
    """What a few clean images tell: probabilities for logits, or answers that change from pass to pass."""
    import torch

    with torch.no_grad():
        first, second = module(probe).float(), module(probe).float()
    found = []
    total = first.sum(1)
    if bool((first >= 0).all()) and bool(((total - 1).abs() < 1e-3).all()):
        found.append(Warning(
            "probabilities",
            "the model returns probabilities, not logits: each row is non-negative and sums to 1. Gradients vanish where "
            "it is sure, so attacks look weaker than they are. Return the values before the softmax.",
            label,
        ))  # fmt: skip
    elif bool((first <= 0).all()) and bool((first.logsumexp(1).abs() < 1e-3).all()):
        found.append(Warning(
            "log-probabilities",
            "the model returns log-probabilities, not logits: the exponentials of each row sum to 1. Labels and margins are "
            "the same, but return the values before the log-softmax to compare losses with other libraries.",
            label,
        ))  # fmt: skip
    if bool(first.isfinite().all()) and not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        moved = float((first - second).abs().max())
        found.append(Warning(
            "randomised",
            f"two passes over the same images differ by up to {moved:.3g} in the logits: the model is random. A single run "
            "of an attack then overstates robustness; use an attack that averages over passes (eot).",
            label,
        ))  # fmt: skip
    return found


ZERO_GRADIENT_SHARE = 0.05


def of_records(records: pd.DataFrame) -> list[Warning]:
    """What the outcome itself gives away."""
    attacked = records[(records["eps"] != "0/255") & (records["label"] == records["clean_pred"])]
    found = []
    for (model, attack), rows in attacked.groupby(["model", "attack"], sort=False):
        share = float(rows["zero_grad"].mean())
        if share > ZERO_GRADIENT_SHARE:
            found.append(Warning(
                "zero-gradient",
                f"for {share:.1%} of the attacked images the gradient was exactly zero, so the attack had nothing to follow "
                "and what it could not break says nothing. Look for rounding, detached tensors or saturation in the model, "
                "and run a black-box attack.",
                str(model), str(attack),
            ))  # fmt: skip
    return found
