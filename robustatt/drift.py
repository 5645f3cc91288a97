"""How far attention moved: the clean map of an example against the map of its attacked image, level by level."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

#: what `drift` measures, with units and ranges, as reports print them
METRICS = {
    "js": "Jensen-Shannon divergence between the two maps, base 2: 0 the same, 1 nothing in common",
    "cosine": "cosine similarity of the two maps: 1 the same direction, 0 nothing in common",
    "shift": "distance between the maps' centres of mass, in pixels of the input image",
    "iou": "intersection over union of the 20 % most attended positions: 1 the same, 0 disjoint",
    "entropy": "entropy of the attacked map minus that of the clean map, in bits: positive means more spread out",
}
TOP_SHARE = 0.2


def drift(
    clean: Float[Tensor, "n height width"], attacked: Float[Tensor, "n height width"], input_size: tuple[int, int]
) -> dict[str, Float[Tensor, " n"]]:
    """Every metric of `METRICS` for each row; maps are non-negative and sum to 1; `input_size` is (height, width)."""
    p, q = clean.flatten(1).double(), attacked.flatten(1).double()
    middle = (p + q) / 2
    return {
        "js": (_bits(middle) - (_bits(p) + _bits(q)) / 2).clamp(0.0, 1.0).float(),
        "cosine": torch.nn.functional.cosine_similarity(p, q, dim=1, eps=1e-30).float(),
        "shift": (_centre(clean, input_size) - _centre(attacked, input_size)).norm(dim=1).float(),
        "iou": _overlap_of_top(p, q).float(),
        "entropy": (_bits(q) - _bits(p)).float(),
    }


def _bits(p: Tensor) -> Tensor:
    nats: Tensor = -torch.special.xlogy(p, p).sum(1)
    return nats / math.log(2.0)


def _centre(maps: Tensor, input_size: tuple[int, int]) -> Tensor:
    maps = maps.double()
    height, width = maps.shape[1:]
    rows = (torch.arange(height, device=maps.device) + 0.5) * input_size[0] / height
    columns = (torch.arange(width, device=maps.device) + 0.5) * input_size[1] / width
    return torch.stack([maps.sum(2) @ rows.double(), maps.sum(1) @ columns.double()], dim=1)


def _overlap_of_top(p: Tensor, q: Tensor) -> Tensor:
    count = max(1, round(TOP_SHARE * p.shape[1]))
    top = [torch.zeros_like(m).scatter(1, m.topk(count, dim=1).indices, 1.0).bool() for m in (p, q)]
    return (top[0] & top[1]).sum(1) / (top[0] | top[1]).sum(1)
