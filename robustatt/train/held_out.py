"""Training images that are held out: they choose whose epoch's weights are kept, and watch adversarial training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustatt.data import Dataset
from robustatt.data.views import stratified
from robustatt.errors import InputError
from robustatt.train.ranks import Ranks
from robustatt.train.request import TrainRequest
from robustatt.train.state import Run
from robustatt.train.watch import ROBUST, WATCHED, collapsed, describe_overfitting, overfitted, robust_accuracy


def hold_out(request: TrainRequest, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which training images are trained on, and which are held out: none, a tenth, or at most 500 to watch by.

    Raises:
        InputError: there are too few.
    """
    every = torch.arange(len(labels))
    if request.keep == "last" and request.adversarial is None:
        return every, None
    if len(labels) < 20:
        why = "--keep best" if request.adversarial is None else f"--adversarial {request.adversarial}"
        raise InputError(f"{why}: {len(labels)} training images are too few to hold a tenth out")
    held = stratified(labels, _size(request, len(labels)), request.seed)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return every[kept], held


def _size(request: TrainRequest, images: int) -> int:
    return images // 10 if request.adversarial is None else min(WATCHED, images // 10)


def judge_epoch(request: TrainRequest, run: Run, held_out: Dataset, mine: Ranks, device: torch.device) -> None:
    """Completes the row of the epoch that has just ended, and keeps its weights if they are to be kept so far."""
    row = run.rows[-1]
    if request.adversarial is None:
        good = _best(run, "held_out_accuracy")
    else:
        measured = robust_accuracy(run.network, held_out, request.train_eps, request.seed, device=device) if mine.first else 0.0
        (row[ROBUST],) = mine.sums(torch.tensor(measured, device=device))
        row["catastrophic_overfitting"] = float(overfitted(run.rows, len(held_out)))
        good = _best(run, ROBUST) if request.keep == "best" else not collapsed(run.rows, len(held_out))
    if good:
        run.best = {name: tensor.detach().clone() for name, tensor in run.network.state_dict().items()}
        run.best_epoch = run.epoch


def _best(run: Run, measure: str) -> bool:
    """Whether the last epoch is better than every one before."""
    return all(run.rows[-1][measure] > row[measure] for row in run.rows[:-1])


def stopped_early(run: Run) -> bool:
    """Whether training has ended before its last epoch: by catastrophic overfitting."""
    return bool(run.rows) and run.rows[-1].get("catastrophic_overfitting") == 1.0


def selection(request: TrainRequest, run: Run) -> str:
    """Whose epoch's weights are kept, and why, as the card says it."""
    if request.keep == "best":
        return f"epoch {run.kept_epoch}, best held-out {'accuracy' if request.adversarial is None else 'robust accuracy'}"
    return "last epoch" if run.kept_epoch == run.epoch else f"epoch {run.kept_epoch}, the last before robust accuracy collapsed"


def robustness(request: TrainRequest, run: Run) -> dict[str, Any]:
    """What the card of an adversarially trained network says of the held-out images; nothing for others."""
    if request.adversarial is None:
        return {}
    said: dict[str, Any] = {ROBUST: round(run.rows[run.kept_epoch - 1][ROBUST], 4)}
    if stopped_early(run):
        said["stopped"] = describe_overfitting(run.rows, run.kept_epoch)
        said["epochs_planned"] = request.epochs
    return said
