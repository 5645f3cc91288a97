"""Training by several processes (DistributedDataParallel under torchrun) with the result of one.

Every process draws the random numbers of the whole batch and takes its share of the rows, BatchNorm counts the whole
batch, and a step's gradient is that of the whole batch's mean loss. Only dropout differs: its masks are each
process's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from robustatt.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those that train together; alone, rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return rows[self.rank :: self.world]

    def mean_loss(self, logits: Tensor, labels: Tensor, batch: int, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy whose mean over all processes is the mean over the whole batch of so many rows."""
        if self.world == 1:
            return cross_entropy(logits, labels, label_smoothing=label_smoothing)
        total = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
        return total * self.world / batch

    def sums(self, *values: Tensor) -> list[float]:
        """Scalars summed over all processes."""
        together = torch.stack([value.detach().double() for value in values])
        if self.world > 1:
            dist.all_reduce(together)
        return [float(value) for value in together]

    def wrapped(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network as it is called in a step: averages gradients over all processes."""
        if self.world == 1:
            return network
        devices = [device.index or 0] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def ranks(distributed: bool, device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started; this one alone if it is not asked for.

    Raises:
        InputError: it is asked for, but torchrun did not start this process.
    """
    if not distributed:
        yield ALONE
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InputError("--distributed: start it by torchrun, such as torchrun --nproc-per-node 2 -m robustatt train ...")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU that torchrun gave this process, if it trains on GPUs."""
    if device.type != "cuda":
        return device
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


@final
class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm of any number of dimensions that counts the rows of all processes, on any device; torch's own is for
    GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        shape = [-1] + [1] * (input.ndim - 2)
        rows = input.new_tensor([input.numel() / input.shape[1]])
        totals: Tensor = _Summed.apply(torch.cat([input.sum(others), rows]))
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centred = input - mean.view(shape)
        squares: Tensor = _Summed.apply(centred.square().sum(others))
        variance = squares / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synced(network: nn.Module, ranks: Ranks) -> None:
    """Make every BatchNorm of a network count the rows of all processes, in place."""
    if ranks.world == 1:
        return
    for name, part in list(network.named_modules()):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            fresh = SyncedBatchNorm(part.num_features, part.eps, part.momentum).to(part.weight)
            fresh.load_state_dict(part.state_dict())
            network.set_submodule(name, fresh)
