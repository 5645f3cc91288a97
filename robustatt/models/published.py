"""The learning rates that networks were published with: steps, by family and data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LONGEST = 10_000  # epochs


@dataclass(frozen=True)
class StepSchedule:
    """SGD whose rate begins at ``peak_rate`` and is multiplied by ``factor`` at each epoch in ``drops``."""

    peak_rate: float
    factor: float
    drops: Sequence[int]
    nesterov: bool = False

    def rate(self, epoch: int, peak: float) -> float:
        """The rate in an epoch, from 0, if it began at ``peak``."""
        return peak * self.factor ** sum(epoch >= drop for drop in self.drops)


Published = Callable[[str], StepSchedule]
"""The schedule on a data set, by its name."""


def vgg_steps(data: str) -> StepSchedule:
    """Jetley et al. 2018, as released: halved every 25 epochs (30 on CUB), from 1.0 on CIFAR and 0.1 elsewhere."""
    every = 30 if "cub" in data.lower() else 25
    return StepSchedule(1.0 if data.startswith("cifar") else 0.1, 0.5, range(every, LONGEST, every))


def resnet_steps(data: str) -> StepSchedule:  # noqa: ARG001 (the same on all)
    """He et al. 2016, as released by Jetley et al.: x0.2 at 60, 120 and 160."""
    return StepSchedule(0.1, 0.2, (60, 120, 160), nesterov=True)
