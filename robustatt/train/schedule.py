"""The optimiser, and its learning rate over the epochs."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustatt.models.registry import family_of
from robustatt.train.request import TrainRequest


def learning_rate(request: TrainRequest, position: float) -> float:
    """The learning rate at ``position`` epochs from the start (a fraction inside an epoch)."""
    peak = peak_rate(request)
    if request.schedule == "paper":
        return peak * _paper_factor(request, int(position))
    share, rise = position / request.epochs, 0.2
    if share < rise:
        return peak * (0.04 + 0.96 * share / rise)
    return peak * max(0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise))), 1e-4)


def peak_rate(request: TrainRequest) -> float:
    if request.lr is not None:
        return request.lr
    if request.schedule == "paper" and request.data.startswith("cifar") and request.model.startswith("vgg"):
        return 1.0
    return family_of(request.model).peak_rate


def optimiser_of(request: TrainRequest, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the network's family is trained with."""
    if family_of(request.model).optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=request.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=0.1,
        momentum=0.9,
        weight_decay=request.weight_decay,
        nesterov=request.schedule == "onecycle" or request.model.startswith("resnet"),
    )


def _paper_factor(request: TrainRequest, epoch: int) -> float:
    """The released schedules: halved every 25 epochs (30 on CUB); the ResNet's x0.2 at 60, 120, 160."""
    if request.model.startswith("resnet"):
        return float(0.2 ** sum(epoch >= drop for drop in (60, 120, 160)))
    return float(0.5 ** (epoch // (30 if "cub" in request.data.lower() else 25)))
