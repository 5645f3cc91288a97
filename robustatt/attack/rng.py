"""Random numbers that belong to the example: the same on every device, in every batch and in any order.

Either drawn by NumPy's Philox (`ExampleRng`), or as a function of (key, counter), vectorised (`counter_uniform`): SplitMix64's
finaliser (Steele, Lea & Flood 2014, section 5) on 64-bit integers that wrap around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.attack.norms import Norm, per_row

if TYPE_CHECKING:
    from robustatt.attack.base import Batch


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


class ExampleRng:
    """Random numbers that belong to the example: seeded by (plan seed, attack, restart, example index, draw).

    Batch order, batch size and device do not change them. Drawn by NumPy's Philox on the CPU.
    """

    def __init__(self, seed: int, attack: str) -> None:
        self._root = f"{seed}|{attack}"

    def generator(self, index: int, restart: int, draw: int = 0) -> np.random.Generator:
        """The generator of one example, restart and draw."""
        digest = hashlib.sha256(f"{self._root}|{restart}|{index}|{draw}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))

    def keys(self, batch: Batch) -> Int[Tensor, " n"]:
        """A 63-bit key for each row, to derive any number of draws from (`counter_uniform`)."""
        pairs = zip(batch.index.tolist(), batch.restart.tolist(), strict=True)
        digests = [hashlib.sha256(f"{self._root}|{restart}|{index}|key".encode()).digest() for index, restart in pairs]
        keys = [int.from_bytes(digest[:8], "little") >> 1 for digest in digests]
        return torch.tensor(keys, dtype=torch.int64, device=batch.image.device)

    def _draw(self, batch: Batch, draw: int, sample: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Tensor:
        shape = tuple(batch.image.shape[1:])
        keys = zip(batch.index.tolist(), batch.restart.tolist(), strict=True)
        drawn = np.stack([sample(self.generator(index, restart, draw), shape) for index, restart in keys])
        return torch.from_numpy(drawn).to(batch.image.device)

    def uniform(self, batch: Batch, draw: int = 0) -> Float[Tensor, "n channels height width"]:
        """Uniform in [-1, 1], independent for each pixel."""
        return self._draw(batch, draw, lambda rng, shape: rng.random(shape, dtype=np.float32) * 2 - 1)

    def normal(self, batch: Batch, draw: int = 0) -> Float[Tensor, "n channels height width"]:
        """Standard normal, independent for each pixel."""
        return self._draw(batch, draw, lambda rng, shape: rng.standard_normal(shape, dtype=np.float32))

    def in_ball(self, norm: Norm, batch: Batch, draw: int = 0) -> Float[Tensor, "n channels height width"]:
        """A uniform point of the ball of each row's radius."""
        if norm.name == "linf":
            unit = self.uniform(batch, draw)
        else:
            unit = norm.random_in_unit_ball(self.uniform(batch, draw), self.normal(batch, draw + 1))
        return unit * per_row(batch.eps, unit)
