"""A small vision transformer (Dosovitskiy et al. 2021) for images of 32 pixels and more.

Patches of 4 pixels, a class token, six pre-norm blocks of six heads. The position of a patch is encoded by sines and
cosines of its row and column (Beyer et al. 2022), so that there is no image size that the weights belong to. A margin
of up to three pixels at the right and the bottom of an image whose sides are no multiples of 4 is not seen.

The map of a block is the attention of the class token to the patches, mean over heads, divided by its sum. ``rollout``
(Abnar & Zuidema 2020) multiplies the blocks' matrices, the residual connection included: how much of each patch
reaches the class token, were there nothing but attention.
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.models.attention import Images, Map, Network
from robustatt.models.vgg import Shape

PATCH = 4
DEPTH = 6
HEADS = 6
RATE = 0.1  # dropout after each half of a block

Tokens = Float[Tensor, "batch tokens width"]
Weights = Float[Tensor, "batch tokens tokens"]


@final
class Block(nn.Module):
    """Self-attention and a perceptron four times as wide, each behind LayerNorm and added to its input."""

    def __init__(self, width: int, rate: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.before_perceptron = nn.LayerNorm(width, eps=1e-6)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(rate), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tokens) -> Tokens:
        q, k, v = self._parts(x)
        return self._close(x, nn.functional.scaled_dot_product_attention(q, k, v))

    def attend(self, x: Tokens) -> tuple[Tokens, Weights]:
        """The block's tokens, and its weights (query, key), mean over heads; each row sums to 1."""
        q, k, v = self._parts(x)
        weights = (q / math.sqrt(q.shape[-1]) @ k.transpose(2, 3)).softmax(dim=3)
        return self._close(x, weights @ v), weights.mean(dim=1)

    def _parts(self, x: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(batch, heads, tokens, width / heads)``."""
        q, k, v = self.qkv(self.before_attention(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _close(self, x: Tokens, attended: Tensor) -> Tokens:
        x = x + self.dropout(self.project(attended.transpose(1, 2).flatten(2)))
        total: Tokens = x + self.dropout(self.perceptron(self.before_perceptron(x)))
        return total


@final
class ViT(Network):
    """768 wide at width 1, 96 at 0.125; classified is the class token."""

    levels = (*(f"block{place + 1}" for place in range(DEPTH)), "rollout")

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = 2 * HEADS * shape.channels(64)
        self.normalise = shape.normalise()
        self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.embedded = nn.LayerNorm(width, eps=1e-6)  # Kumar et al. 2023: patches as large as their positions
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, shape.rate(RATE)) for _ in range(DEPTH))
        self.close = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, shape.classes)

    def features(self, x: Images) -> Tensor:
        tokens, _ = self._tokens(x)
        for block in self.blocks:
            tokens = block(tokens)
        vector: Tensor = self.close(tokens[:, 0])
        return vector

    def forward(self, x: Images) -> Tensor:
        logits: Tensor = self.classify(self.features(x))
        return logits

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        tokens, sides = self._tokens(x)
        rows, rolled = list[Tensor](), None
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, weights = block.attend(tokens)
            rows.append(weights[:, 0])
            rolled = rolled_out(weights, rolled)
        assert rolled is not None
        maps = [row[:, 1:].float() for row in (*rows, rolled[:, 0])]
        logits = self.classify(self.close(tokens[:, 0]))
        return logits, [(row / row.sum(dim=1, keepdim=True)).view(-1, *sides) for row in maps]

    def _tokens(self, x: Images) -> tuple[Tokens, tuple[int, int]]:
        """The class token, then the patches row by row, with their positions; and how many rows and columns there are."""
        patches = self.embed(self.normalise(x))
        rows, columns = patches.shape[2:]
        places = positions(rows, columns, patches.shape[1]).to(patches)
        placed = self.embedded(patches.flatten(2).transpose(1, 2)) + places
        return torch.cat([self.class_token.to(placed).expand(len(x), 1, -1), placed], dim=1), (rows, columns)


def rolled_out(weights: Weights, before: Weights | None) -> Weights:
    """One more block of an attention rollout (Abnar & Zuidema 2020): half of the block's weights, half of its residual.

    ``before`` is the rollout of the blocks below, None for the first.
    """
    if before is None:
        return 0.5 * (weights + torch.eye(weights.shape[2], device=weights.device, dtype=weights.dtype))
    return torch.baddbmm(before, weights, before, beta=0.5, alpha=0.5)


def positions(rows: int, columns: int, width: int) -> Float[Tensor, "places width"]:
    """Sines and cosines of row and column, a quarter of the width each, the places row by row."""
    quarter = width // 4
    rates = 10_000.0 ** -(torch.arange(quarter) / max(1, quarter - 1))
    down, right = (torch.arange(side)[:, None] * rates for side in (rows, columns))
    down, right = down.repeat_interleave(columns, 0), right.repeat(rows, 1)
    return torch.cat([right.sin(), right.cos(), down.sin(), down.cos()], dim=1)
