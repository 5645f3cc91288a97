"""What the card of a trained network says, and the weights it may start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustatt.data import Dataset
from robustatt.errors import InputError
from robustatt.models import Card, Network, load_checkpoint
from robustatt.models.card import AdversarialTraining
from robustatt.models.families import family_of
from robustatt.train.held_out import robustness, selection
from robustatt.train.images import augmentation
from robustatt.train.request import TrainRequest
from robustatt.train.schedule import peak_rate
from robustatt.train.state import Run

Channels = tuple[float, float, float]


def channel_statistics(pixels: Tensor) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels of images ``(n, 3, h, w)``, both in [0, 1] scale."""
    scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
    count = pixels.numel() / pixels.shape[1]
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in torch.split(pixels, 1000):
        chunk = part.double() / scale
        total += chunk.sum(dim=(0, 2, 3))
        squares += chunk.square().sum(dim=(0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: Tensor) -> Channels:
    red, green, blue = (round(value, 4) for value in values.tolist())
    return red, green, blue


def start_from(path: Path | None, network: Network) -> dict[str, Any] | None:
    """Copies a checkpoint's weights but for the normalisation and, for other classes, the head.

    Returns what the card should say of it.

    Raises:
        InputError: the checkpoint is of another network or width.
    """
    if path is None:
        return None
    source, card = load_checkpoint(path)
    mine = network.architecture
    for what, theirs, own in (("network", card.name, mine.name), ("width", card.width, mine.width)):
        if theirs != own:
            raise InputError(f"--init {path}: its {what} is {theirs}, not {own}: give one of the same {what}")
    state = network.state_dict()
    for name, tensor in source.state_dict().items():
        fits = name in state and state[name].shape == tensor.shape
        if not fits and card.classes == mine.classes:
            raise InputError(f"--init {path}: tensor {name} does not fit this network: their options differ")
        if fits and not name.startswith("normalise."):
            state[name] = tensor
    network.load_state_dict(state)
    head = "kept" if card.classes == mine.classes else "new"
    return {"name": card.name, "data": card.data, "epochs": card.epochs, "head": head}


def card_of(
    request: TrainRequest,
    run: Run,
    dataset: Dataset,
    mean: Channels,
    std: Channels,
    origin: dict[str, Any] | None,
    clean_accuracy: float,
) -> Card:
    """The card of a run that has ended, of which the weights of ``run.kept_epoch`` are kept."""
    flip, crop = augmentation(request)
    adversarial = None
    if request.adversarial is not None:
        adversarial = AdversarialTraining(method=request.adversarial, eps=f"{request.train_eps:g}/255")
    architecture = run.network.architecture
    kept = run.rows[run.kept_epoch - 1]
    return Card(
        name=architecture.name,
        options=dict(architecture.options),
        width=architecture.width,
        classes=architecture.classes,
        class_names=dataset.classes,
        input_size=architecture.input_size,
        mean=mean,
        std=std,
        data=Path(dataset.name).name,
        data_fingerprint=run.data,
        clean_accuracy=clean_accuracy,
        seed=request.seed,
        epochs=run.epoch,
        adversarial=adversarial,
        history={
            "schedule": request.schedule,
            "optimiser": family_of(request.model).optimiser,
            "lr": peak_rate(request),
            "batch_size": request.batch_size,
            "weight_decay": request.weight_decay,
            "label_smoothing": request.label_smoothing,
            "flip": flip,
            "crop": crop,
            "precision": request.precision_on(next(run.network.parameters()).device.type),
            "stored_as": "float16" if request.half else "float32",
            "selection": selection(request, run),
            **({"init": origin} if origin else {}),
            **robustness(request, run),
            "train_loss": round(kept["train_loss"], 4),
            "train_accuracy": round(kept["train_accuracy"], 4),
            "seconds": round(sum(row["seconds"] for row in run.rows), 1),
            "torch": torch.__version__,
        },
    )
