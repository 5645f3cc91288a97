"""How far a map moved: that of the clean image against that of its attacked image, attention and saliency alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robustatt.results.columns import DRIFT_METRICS

__all__ = ["DRIFT_METRICS", "AttentionMaps", "drift"]

TOP_SHARE = 0.2


@dataclass(frozen=True)
class AttentionMaps:
    """Maps of a batch with what every comparison needs of them; they are non-negative and sum to 1."""

    flat: Float[Tensor, "n positions"]
    entropy: Float[Tensor, " n"]  # bits
    centre: Float[Tensor, "n 2"]  # row and column of the centre of mass, in pixels of the input image
    top: Bool[Tensor, "n positions"]  # the 20 % most attended positions

    @staticmethod
    def of(maps: Float[Tensor, "n height width"], input_size: tuple[int, int]) -> AttentionMaps:
        """Look at maps of images of `input_size`, (height, width)."""
        flat = maps.flatten(1)
        count = max(1, round(TOP_SHARE * flat.shape[1]))
        highest = flat.topk(count, dim=1)
        top = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, highest.indices, True)
        return AttentionMaps(flat, _bits(flat), _centre(maps, input_size), top)

    def select(self, rows: Tensor) -> AttentionMaps:
        """Some of the maps."""
        return AttentionMaps(self.flat[rows], self.entropy[rows], self.centre[rows], self.top[rows])


def drift(clean: AttentionMaps, attacked: AttentionMaps) -> dict[str, Float[Tensor, " n"]]:
    """Every metric of `DRIFT_METRICS` for each row: their units and ranges stand there."""
    p, q = clean.flat, attacked.flat
    mixed = _bits((p + q) / 2)
    return {
        "js": (mixed - (clean.entropy + attacked.entropy) / 2).clamp(0.0, 1.0),
        "cosine": torch.nn.functional.cosine_similarity(p, q, dim=1, eps=1e-30),
        "shift": (clean.centre - attacked.centre).norm(dim=1),
        "iou": (clean.top & attacked.top).sum(1) / (clean.top | attacked.top).sum(1),
        "entropy": attacked.entropy - clean.entropy,
    }


def _bits(p: Tensor) -> Tensor:
    nats: Tensor = -torch.special.xlogy(p, p).sum(1)
    return nats / math.log(2.0)


def _centre(maps: Tensor, input_size: tuple[int, int]) -> Tensor:
    rows, columns = (_middles(count, size, maps) for count, size in zip(maps.shape[1:], input_size, strict=True))
    return torch.stack([maps.sum(2) @ rows, maps.sum(1) @ columns], dim=1)


def _middles(count: int, size: int, like: Tensor) -> Tensor:
    """The middles of `count` positions along a side of `size` pixels."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * size / count
