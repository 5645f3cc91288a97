"""Shared set-up of the tests: few threads, and fixtures of models whose robustness is known."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from tiny_models import TwoClassLinear, images, small_net
from torch import Tensor, nn

torch.set_num_threads(1)


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
