"""CBAM (Woo et al. 2018) on the trunk of the paper's attention networks: gates instead of a softmax over positions.

After each of the stages that the paper attends to, a gate for each channel and then one for each position multiply
the local features, and what is left flows on. The map of a level is its spatial gate divided by its sum: the gates of
an image lie in (0, 1) each by itself and do not compete, which the softmax of the paper's networks makes them do.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.models.attention import Images, Map, Network, head
from robustatt.models.vgg import BN_EPS, TINY, Shape, global_branch, stages

REDUCTION = 16
KERNEL = 7


@final
class ChannelGate(nn.Module):
    """A gate for each channel: one perceptron on the channels' means and on their maxima, summed, then a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // REDUCTION)  # 4: a narrow trunk would be left with a single one
        self.perceptron = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Images) -> Float[Tensor, "batch channels 1 1"]:
        mean, most = x.mean(dim=(2, 3)), nn.functional.adaptive_max_pool2d(x, 1).flatten(1)
        gate: Tensor = self.perceptron(torch.stack([mean, most])).sum(dim=0).sigmoid()
        return gate[:, :, None, None]


@final
class SpatialGate(nn.Module):
    """A gate for each position: a 7x7 convolution of the mean and the maximum over channels, BatchNorm, a sigmoid.

    BatchNorm is of the authors' code; the paper does not name it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False), nn.BatchNorm2d(1, eps=BN_EPS))

    def forward(self, x: Images) -> Float[Tensor, "batch 1 height width"]:
        most, mean = x.max(dim=1, keepdim=True).values, x.mean(dim=1, keepdim=True)
        gate: Tensor = self.score(torch.cat([most, mean], dim=1)).sigmoid()
        return gate


@final
class Gates(nn.Module):
    """The channels' gate, then the positions'."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelGate(channels)
        self.spatial = SpatialGate()

    def forward(self, x: Images) -> tuple[Images, Map]:
        """What passes, and the gate of each position ``(batch, h, w)``."""
        x = x * self.channel(x)
        gate = self.spatial(x)
        return x * gate, gate.squeeze(1)


@final
class CbamVGG(Network):
    """Gates after l1, l2 and l3; classified is the global descriptor."""

    levels = ("l1", "l2", "l3")
    map_names: ClassVar = {level: (level, "gate") for level in levels}

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c256, c512 = shape.channels(256), shape.channels(512)
        self.normalise = shape.normalise()
        self.bottom, self.middle, self.top = stages(shape)
        self.gates = nn.ModuleList(Gates(channels) for channels in (c256, c512, c512))
        self.descriptor = global_branch(shape)
        self.head = head("concat", (c512,), shape.classes, shape.rate(0.5))

    def _look(self, x: Images) -> tuple[Tensor, list[Map]]:
        x, seen = self.normalise(x), list[Tensor]()
        for stage, gates in zip((self.bottom, self.middle, self.top), self.gates, strict=True):
            x, gate = gates(stage(x))
            seen.append(gate)
        return self.descriptor(x), seen

    def features(self, x: Images) -> Tensor:
        return self._look(x)[0]

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        vector, gates = self._look(x)
        lifted = [gate.float() + TINY for gate in gates]
        return self.head([vector]), [gate / gate.sum(dim=(1, 2), keepdim=True) for gate in lifted]
