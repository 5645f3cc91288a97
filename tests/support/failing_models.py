"""Models that go wrong in the middle of a sweep."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import torch
from tiny_models import small_net
from torch import Tensor, nn

CHILD_SECONDS = 60


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


class KillsItsWorker(nn.Module):
    """Ends a spawned process that shows it an all-white image; the driver it leaves alone. A child may live on."""

    def __init__(self, leaves_a_child: bool = False) -> None:
        super().__init__()
        self.net, self.leaves_a_child = small_net(), leaves_a_child

    def forward(self, image: Tensor) -> Tensor:
        if multiprocessing.parent_process() is not None and bool((image == 1).all((1, 2, 3)).any()):
            print("a white image came in", file=sys.stderr, flush=True)
            if self.leaves_a_child and os.fork() == 0:
                time.sleep(CHILD_SECONDS)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(image)


def kills_its_worker() -> nn.Module:
    return KillsItsWorker()


def leaves_a_child() -> nn.Module:
    return KillsItsWorker(leaves_a_child=True)


class Slow(nn.Module):
    """Takes a twentieth of a second for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, image: Tensor) -> Tensor:
        time.sleep(0.05)
        return self.net(image)


def slow() -> nn.Module:
    return Slow()
