"""Shared set-up of the tests: few threads, and models whose robustness is known."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)


class TwoClassLinear(nn.Module):
    """logits = W (x - 0.5) + b with two classes: its smallest L-infinity change is |margin| / ||w1 - w0||_1."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 3 * size * size, generator=generator) / size)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.05]))

    def forward(self, image: Tensor) -> Tensor:
        return (image - 0.5).flatten(1) @ self.weight.T + self.bias


class Scaled(nn.Module):
    """The same classifier with its logits multiplied: nothing about its decisions changes."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * self.model(image)


class SmallNet(nn.Module):
    """A small convolutional network with BatchNorm and dropout, enough to be fooled."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).flatten(1))


def images(count: int, size: int = 8, seed: int = 0) -> Tensor:
    """Random images whose pixels stay away from the box's sides."""
    return 0.25 + 0.5 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small_net(seed: int = 0) -> nn.Module:
    """A SmallNet with random weights and non-trivial BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallNet()
        with torch.no_grad():
            for _ in range(10):
                net(images(32, 12, seed=int(torch.randint(1000, (1,)))))
            net.head.weight *= 8
    return net.eval()


@pytest.fixture
def linear() -> nn.Module:
    return TwoClassLinear()


@pytest.fixture
def net() -> nn.Module:
    return small_net()


@pytest.fixture
def labelled(net: nn.Module) -> tuple[Tensor, Tensor]:
    """60 images with the labels the network gives them, but for every tenth."""
    batch = images(60, 12)
    with torch.no_grad():
        label = net(batch).argmax(1)
    label[::10] = (label[::10] + 1) % 5
    return batch, label
