"""Which device computes: the one asked for, or the first GPU if there is one; and whether its memory ran out."""

from __future__ import annotations

import torch

from robustatt.errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, otherwise the CPU. InputError for a device this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = "PyTorch finds no GPU it can use" if name.startswith("cuda") else "no such device"
        raise InputError(f"--device {name!r}: {reason} on this machine: give auto or cpu") from problem
    return device


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    said = str(problem).lower()
    memory = "can't allocate memory" in said or "out of memory" in said
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or (isinstance(problem, RuntimeError) and memory)
