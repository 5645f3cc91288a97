"""Adversarial training is watched: robust accuracy on held-out images after every epoch, and when it collapses.

Training on single-step attacks can overfit catastrophically (Wong et al. 2020, section 5.2): within an epoch the network learns to
mask its gradients, so that accuracy on the training's own attacked images jumps while accuracy under PGD falls to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from robustatt.attack.gradient_recipes import PgdRecipe
from robustatt.data import Dataset
from robustatt.evaluate.cell import as_float, attack_examples
from robustatt.evaluate.classifier import frozen
from robustatt.plan import Cell

Row = Mapping[str, float]

WATCHED = 500
"""Held-out images; a tenth of the training images where there are fewer than ten times as many."""
WATCH = PgdRecipe(name="pgd", algorithm="pgd", steps=10, step_size=0.25, citation="Madry et al. 2018")
"""PGD with 10 steps of eps/4 from a random start."""
ROBUST = "held_out_robust_accuracy"
LARGEST_FALL = 0.15
STANDARD_ERRORS = 3.0


def robust_accuracy(
    network: nn.Module, held_out: Dataset, eps: float, seed: int, *, device: torch.device, batch_size: int = 128
) -> float:
    """The share of a data set classified right under PGD-10 with an L-infinity radius of ``eps`` (in 1/255).

    Measured as a sweep does, on a frozen copy in evaluation mode; network and random numbers are as before afterwards.
    """
    cell = Cell("network", "", held_out.fingerprint, WATCH, (f"{eps:g}/255",), 0, len(held_out), seed, independent=True)
    probe = as_float(held_out.tensors(range(min(8, len(held_out))))[0]).to(device)
    with frozen(network, cell.model, device, probe) as classifier:
        target, outcomes, _ = attack_examples(cell, classifier, held_out, range(len(held_out)), batch_size)
    return float((outcomes.columns["adv_pred"][:, 0] == target.label.cpu().numpy()).mean())


def collapsed(rows: Sequence[Row], images: int) -> bool:
    """Whether robust accuracy of the last epoch has collapsed: below half of the best so far, or by over 15 points.

    A fall within three standard errors of the best, on so many images, is no collapse.
    """
    if len(rows) < 2:
        return False
    best, last = max(row[ROBUST] for row in rows), rows[-1][ROBUST]
    share = (best * images + 2) / (images + 4)  # Agresti & Coull 1998: the error of 0 or all of a few images is not 0
    noise = STANDARD_ERRORS * math.sqrt(share * (1 - share) / (images + 4))
    return best - last > noise and (last < best / 2 or best - last > LARGEST_FALL)


def overfitted(rows: Sequence[Row], images: int) -> bool:
    """Whether the last epoch shows catastrophic overfitting: robust accuracy has collapsed, while accuracy on the training's own
    attacked images is higher than it was when robust accuracy was best."""
    if not collapsed(rows, images):
        return False
    return rows[-1]["train_accuracy"] > max(rows, key=lambda row: row[ROBUST])["train_accuracy"]


def describe_overfitting(rows: Sequence[Row], kept: int) -> str:
    """What happened in the last epoch, and that the weights are those of epoch ``kept``; one line."""
    best, last = max(rows, key=lambda row: row[ROBUST]), rows[-1]
    return (
        f"catastrophic overfitting in epoch {last['epoch']:g}: accuracy under PGD-10 on held-out images fell from {best[ROBUST]:.1%} "
        f"to {last[ROBUST]:.1%} while accuracy on attacked training images rose from {best['train_accuracy']:.1%} to "
        f"{last['train_accuracy']:.1%}; the weights are those of epoch {kept}"
    )
