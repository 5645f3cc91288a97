"""Context managers that restore a module's flags and the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import torch
from torch import nn


@contextmanager
def borrowed(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode with no parameter that asks for a gradient; every flag is as before afterwards."""
    training = [(part, part.training) for part in module.modules() if hasattr(part, "training")]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield evaluation_mode(module)
    finally:
        for part, flag in training:
            part.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


def evaluation_mode(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, no parameter of which asks for a gradient.

    An exported program stays in the mode that it was exported in.
    """
    with suppress(NotImplementedError):
        module.eval()
    for parameter in module.parameters():  # TorchScript has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return module


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Random numbers that are the same each time; the global generators are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def default_modes() -> Iterator[None]:
    """torch as it is when a program starts, whatever the caller's modes; they are as before afterwards.

    Gradients on, no inference mode, no autocast, no anomaly detection, float32 and the CPU by default, matrix products
    in full precision. Deterministic algorithms stay as the caller wants them: they change no number on a CPU.
    """
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with ExitStack() as modes:
        modes.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if precision != "highest":
            modes.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        modes.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        if torch.is_anomaly_enabled():
            modes.enter_context(torch.autograd.set_detect_anomaly(False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield
