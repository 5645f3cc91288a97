"""Using somebody's module without leaving a trace: its flags, and the random numbers of everybody, are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def borrowed(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode with no parameter that asks for a gradient; every flag is as before afterwards."""
    training = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield module.eval().requires_grad_(False)
    finally:
        for part, flag in training:
            part.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Random numbers that are the same each time; the global generators are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
