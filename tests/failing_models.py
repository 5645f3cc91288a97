"""Models that go wrong in the middle of a sweep."""

from __future__ import annotations

import torch
from conftest import small_net
from torch import Tensor, nn


class NanLater(nn.Module):
    """Answers NaN once it has seen more images than a first Cell with one radius takes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.net, self.seen, self.after = small_net(), 0, after

    def forward(self, image: Tensor) -> Tensor:
        self.seen += len(image)
        return self.net(image) if self.seen <= self.after else torch.full((len(image), 5), torch.nan)


def nan_after_the_first_cell() -> nn.Module:
    return NanLater(64 * 6 + 256 * 3)
