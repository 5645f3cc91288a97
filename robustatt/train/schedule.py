"""The optimiser, and its learning rate over the epochs."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustatt.models.published import StepSchedule
from robustatt.models.registry import family_of
from robustatt.train.request import TrainRequest


def learning_rate(request: TrainRequest, position: float) -> float:
    """The learning rate at ``position`` epochs from the start (a fraction inside an epoch)."""
    peak = peak_rate(request)
    if request.schedule == "paper":
        return published(request).rate(int(position), peak)
    share, rise = position / request.epochs, 0.2
    if share < rise:
        return peak * (0.04 + 0.96 * share / rise)
    return peak * max(0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise))), 1e-4)


def peak_rate(request: TrainRequest) -> float:
    """The largest learning rate: the one asked for, or that of the network's family."""
    if request.lr is not None:
        return request.lr
    return published(request).peak_rate if request.schedule == "paper" else family_of(request.model).peak_rate


def published(request: TrainRequest) -> StepSchedule:
    """The schedule that the network was published with; a request for "paper" has one."""
    steps = family_of(request.model).published
    assert steps is not None
    return steps(request.data)


def optimiser_of(request: TrainRequest, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the network's family is trained with."""
    if family_of(request.model).optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=request.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=0.1,
        momentum=0.9,
        weight_decay=request.weight_decay,
        nesterov=request.schedule == "onecycle" or published(request).nesterov,
    )
