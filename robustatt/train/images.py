"""What is done to training images on the way: shifted, mirrored, attacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from robustatt.attack.base import Batch, Oracle, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.gradient_recipes import PgdRecipe, RFgsmRecipe
from robustatt.attack.recipe import Recipe
from robustatt.attack.rng import ExampleRng
from robustatt.data import SOURCES
from robustatt.evaluate.step_runner import run_to_end
from robustatt.train.ranks import ALONE, Ranks
from robustatt.train.request import Method, TrainRequest


@dataclass(frozen=True)
class TrainingAttack:
    """An attack that makes training images, in a ball of ``reach`` times the radius of the training."""

    recipe: Recipe
    reach: float = 1.0


#: Cross-entropy as in the papers: BatchNorm in training mode makes an image's gradient depend on the losses of the whole batch,
#: and so on how they are weighed against each other.
TRAINED_ON: dict[Method, TrainingAttack] = {
    "fgsm": TrainingAttack(
        RFgsmRecipe(name="fgsm-rs", algorithm="r-fgsm", start="uniform", start_size=1.0, step_size=1.25, loss="ce")
    ),
    "n-fgsm": TrainingAttack(
        RFgsmRecipe(name="n-fgsm", algorithm="r-fgsm", start="uniform", start_size=2 / 3, step_size=1 / 3, loss="ce"), reach=3.0
    ),  # noise of up to 2 eps and a step of eps: nothing is left for the projection to do but the box
    "pgd-2": TrainingAttack(PgdRecipe(name="pgd-2", algorithm="pgd", steps=2, step_size=0.5, loss="ce")),
    "pgd": TrainingAttack(PgdRecipe(name="pgd", algorithm="pgd", steps=7, step_size=0.25, loss="ce")),
}


def augmentation(request: TrainRequest) -> tuple[bool, bool]:
    """Whether to flip and to crop: both by default, but images whose mirror image is of no class are not flipped."""
    source = SOURCES.get(request.data)
    flip = (source is None or source.mirrored) if request.flip is None else request.flip
    return flip, True if request.crop is None else request.crop


def augment(images: Tensor, chosen: Tensor, noise: torch.Generator, *, flip: bool, crop: bool, pad: int = 4) -> Tensor:
    """The chosen images of ``(n, h, w, 3)`` as float ``(batch, 3, h, w)`` in [0, 1], in channels-last memory.

    A crop of a copy padded by reflection is a shift by at most ``pad`` pixels, so one gather does it all.
    The random numbers are drawn on the CPU and so do not depend on the device.
    """
    batch, (height, width) = len(chosen), images.shape[1:3]
    rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    if crop:
        shift = torch.randint(-pad, pad + 1, (2, batch, 1), generator=noise)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        turned = torch.rand(batch, 1, generator=noise) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    device = images.device
    index = (chosen.view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    taken = images[tuple(part.to(device) for part in index)].permute(0, 3, 1, 2)
    return taken.float() / 255 if taken.dtype == torch.uint8 else taken.float()


def _reflect(positions: Tensor, size: int) -> Tensor:
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def adversarial_images(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    method: Method,
    eps: float,
    noise: torch.Generator,
    ranks: Ranks = ALONE,
    batch: int | None = None,
) -> Tensor:
    """Attacked training images, inside [0, 1]; ``eps`` is the L-infinity radius (pixel scale [0, 1]).

    ``fgsm`` is one step of 1.25 eps from a uniform random point of the ball, back into the ball (Wong et al. 2020); ``n-fgsm`` is
    one step of eps from a uniform random point of the ball of 2 eps, so up to 3 eps away (de Jorge et al. 2022); ``pgd`` is 7 steps
    of eps/4 from a point of the ball (Madry et al. 2018), ``pgd-2`` 2 of eps/2 (Andriushchenko & Flammarion 2020). The network stays in training mode, as in the papers.
    ``x`` may be this process's share of a batch of ``batch`` images.
    """
    chosen = TRAINED_ON[method]
    attack = build(chosen.recipe)
    assert isinstance(attack, SteppedAttack)
    rows = Batch.at(chosen.reach * eps, x, y, clean=x.new_zeros(len(y), 0))  # clean logits are for attacks that choose a class
    start = attack.start(rows, _StepNoise(noise, ranks, batch or len(y)))
    return run_to_end(attack, rows, Oracle(lambda query: network(query).float()), start)


@final
class _StepNoise(ExampleRng):
    """Random numbers of one training step: drawn for the whole batch, of which a process takes its rows."""

    def __init__(self, noise: torch.Generator, ranks: Ranks, batch: int) -> None:
        super().__init__(0, "training")
        self._noise, self._ranks, self._batch = noise, ranks, batch

    def uniform(self, batch: Batch, draw: int = 0) -> Tensor:  # noqa: ARG002
        shape = (self._batch, *batch.image.shape[1:])
        drawn = torch.empty(shape, memory_format=torch.channels_last).uniform_(-1, 1, generator=self._noise)
        return self._ranks.share(drawn).to(batch.image.device)
