"""The attention module of Jetley et al. (ICLR 2018) and the interface that every network of the family has.

Local features compete for attention by how compatible they are with a global descriptor; what they attend to
replaces the global descriptor in front of the classifier.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.models.families import Compatibility, Head

if TYPE_CHECKING:
    from robustatt.models.card import Card

Options = Mapping[str, Any]
"""Keyword arguments with which a network is built."""

Images = Float[Tensor, "batch channels height width"]
Logits = Float[Tensor, "batch classes"]
Map = Float[Tensor, "batch height width"]
Vector = Float[Tensor, "batch width"]


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes of a network: its canonical name, number of classes, width and options."""

    name: str
    classes: int
    width: float
    options: Options = field(default_factory=dict)
    input_size: int = 32


class Network(nn.Module, abc.ABC):
    """A classifier of RGB images in [0, 1], normalisation included, that can show where it looks.

    ``levels`` names the attended levels from low to high; it is empty for a network without attention.
    ``map_names`` has what a level's map is called beside others, and what it is ("attention", "gate", "activation"), where that
    is not attention by the level's own name. ``architecture`` says how to build the same network again, ``card`` what the checkpoint says that it came
    from. Each submodule is called once in a forward pass, so BatchNorm can be folded into the convolution before it.
    """

    levels: tuple[str, ...] = ()
    map_names: ClassVar[Mapping[str, tuple[str, str]]] = {}
    architecture: Architecture
    card: Card | None = None

    @abc.abstractmethod
    def attend(self, x: Images) -> tuple[Logits, list[Map]]:
        """Logits, and for each level a map ``(batch, h, w)`` that is non-negative and sums to 1."""

    @abc.abstractmethod
    def features(self, x: Images) -> Vector:
        """The vector that is classified, ``(batch, width)``, before the head's own BatchNorm and dropout."""

    def forward(self, x: Images) -> Logits:
        """Logits ``(batch, classes)`` of float images ``(batch, 3, height, width)`` in [0, 1]."""
        return self.attend(x)[0]


class AttendingNetwork(Network):
    """A network whose head sees nothing but the attended vectors of its levels (Jetley et al. 2018)."""

    attention: nn.ModuleList
    head: nn.Module

    @abc.abstractmethod
    def describe(self, x: Images) -> tuple[tuple[Tensor, ...], Tensor]:
        """Local features ``(batch, c, h, w)`` of every stage, low to high, and the global descriptor ``(batch, c)``."""

    def _look(self, x: Images) -> tuple[list[Tensor], list[Map]]:
        local, g = self.describe(x)
        attended = local[-len(self.levels) :]
        seen = [attention(features, g) for attention, features in zip(self.attention, attended, strict=True)]
        return [vector for vector, _ in seen], [weights for _, weights in seen]

    def features(self, x: Images) -> Tensor:
        return torch.cat(self._look(x)[0], dim=1)

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        vectors, maps = self._look(x)
        return self.head(vectors), maps


class Normalise(nn.Module):
    """Subtracts a mean and divides by a standard deviation, each channel by its own.

    Both are part of the weights, so a checkpoint always takes images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Images) -> Images:
        return (x - self.mean) / self.std


class Attention(nn.Module):
    """Attention of one level: local features ``(batch, c, h, w)`` and a global descriptor to one vector.

    The score of position i is ``<u, l_i + g>`` with a learned ``u`` and bias (``pc``) or ``<l_i, g>``
    (``dp``); the softmax of the scores over all positions weighs the local features. ``g`` is projected to
    the local width where they differ.

    With ``pc`` the part ``<u, g>`` is the same at every position, and the softmax does not see it: in exact
    arithmetic the map does not depend on ``g``. That is so in the paper's formula, not only here.
    """

    def __init__(self, local: int, query: int, compatibility: Compatibility, dropout: float) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if local != query:
            self.project = nn.Sequential(nn.BatchNorm1d(query), nn.ReLU(), nn.Dropout(dropout), nn.Linear(query, local))
        self.score = nn.Linear(local, 1) if compatibility == "pc" else None

    def forward(self, features: Images, query: Vector) -> tuple[Vector, Map]:
        """The attended vector ``(batch, c)`` and the map ``(batch, h, w)``."""
        g = self.project(query)
        positions = features.permute(0, 2, 3, 1).flatten(1, 2)
        if self.score is None:
            scores = torch.bmm(positions, g.unsqueeze(2)).squeeze(2)
        else:
            scores = self.score(positions).squeeze(2) + nn.functional.linear(g, self.score.weight)
        weights = scores.softmax(dim=1)
        attended = torch.bmm(weights.unsqueeze(1), positions).squeeze(1)
        return attended, weights.view(-1, features.shape[2], features.shape[3])


class ConcatHead(nn.Module):
    """BatchNorm, ReLU and dropout on each attended vector, then one linear layer on all of them."""

    def __init__(self, widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.prepare = nn.ModuleList(_prepare(width, dropout) for width in widths)
        self.classify = nn.Linear(sum(widths), classes)

    def forward(self, attended: list[Tensor]) -> Tensor:
        vectors = [prepare(g) for prepare, g in zip(self.prepare, attended, strict=True)]
        logits: Tensor = self.classify(torch.cat(vectors, dim=1))
        return logits


class IndependentHead(nn.Module):
    """One linear layer a level, each after BatchNorm, ReLU and dropout; the logits are summed.

    The sum is what the authors' code does; the paper speaks of averaging the predictions.
    """

    def __init__(self, widths: Sequence[int], classes: int, dropout: float) -> None:
        super().__init__()
        self.prepare = nn.ModuleList(_prepare(width, dropout) for width in widths)
        self.classify = nn.ModuleList(nn.Linear(width, classes) for width in widths)

    def forward(self, attended: list[Tensor]) -> Tensor:
        logits = [classify(prepare(g)) for prepare, classify, g in zip(self.prepare, self.classify, attended, strict=True)]
        return torch.stack(logits).sum(dim=0)


def head(kind: Head, widths: Sequence[int], classes: int, dropout: float) -> ConcatHead | IndependentHead:
    """The classifier on the attended vectors of widths ``widths``."""
    return (ConcatHead if kind == "concat" else IndependentHead)(widths, classes, dropout)


def _prepare(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))


def initialise(module: nn.Module) -> None:
    """He et al. (2015) for the convolutions; PyTorch's own start for everything else."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
