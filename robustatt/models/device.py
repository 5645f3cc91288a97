"""Which device computes: the requested one, or the first GPU if there is one; and whether its memory ran out."""

from __future__ import annotations

import platform
from pathlib import Path

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


def hardware(device: str) -> dict[str, str | int]:
    """The processor, its threads and the device that computed."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    return {
        "device": device,
        "name": name,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
