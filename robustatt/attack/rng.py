"""Random numbers as a function of (key, counter): the same on every device and in every batch, and
vectorised.

The mixing is SplitMix64's finaliser (Steele, Lea & Flood 2014, section 5) on 64-bit integers that wrap
around.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """A logical shift to the right (torch's is arithmetic)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def counter_uniform(key: Int[Tensor, " n"], counter: Int[Tensor, " n"], draws: int) -> Float[Tensor, "n draws"]:
    """Uniform numbers in [0, 1): the `draws` numbers that belong to this counter of each key."""
    stream = _mixed(key + counter * _GAMMA)
    offsets = torch.arange(1, draws + 1, device=key.device)
    return _shifted(_mixed(stream[:, None] + offsets * _GAMMA), 40).float() * 2.0**-24
