"""The VGG family of Jetley et al. (2018): the plain baseline, one to three attention levels, and two rivals.

All take RGB images of 32 pixels or more: the last pooling of each trunk is adaptive, and at 32 it is the
paper's. Local features are taken before the pooling that follows them: l1 after convolution 7 at full size,
l2 after convolution 10 at half, l3 after convolution 13 at a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from robustatt.models.attention import (
    AttendingNetwork,
    Attention,
    Images,
    Map,
    Network,
    Normalise,
    head,
)
from robustatt.models.families import Compatibility, Head

BN_EPS = 1e-3
TINY = 1e-30  # keeps a map that is zero everywhere from being divided by zero


@dataclass(frozen=True)
class Shape:
    """Widths and rates shared by every network of the family; ``dropout`` multiplies the paper's rates."""

    classes: int
    width: float = 1.0
    dropout: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def channels(self, paper: int) -> int:
        """The paper's number of channels times the width, at least 1."""
        return max(1, round(paper * self.width))

    def rate(self, paper: float) -> float:
        """The paper's dropout rate times the multiplier."""
        return paper * self.dropout

    def normalise(self) -> Normalise:
        """The normalisation of the data the network is trained on."""
        return Normalise(self.mean, self.std)


def run(shape: Shape, inputs: int, paper_widths: Sequence[int], *, first_rate: float = 0.4) -> nn.Sequential:
    """Convolutions of equal width, one stage: dropout after each that is followed by another."""
    layers: list[nn.Module] = []
    channels = inputs
    for place, paper in enumerate(paper_widths):
        outputs = shape.channels(paper)
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs, eps=BN_EPS),
            nn.ReLU(inplace=True),
        ]
        if place + 1 < len(paper_widths):
            layers.append(nn.Dropout(shape.rate(first_rate if place == 0 else 0.4)))
        channels = outputs
    return nn.Sequential(*layers)


def bottom(shape: Shape) -> nn.Sequential:
    """Convolutions 1 to 7 at full size; the two poolings come back in the global branch."""
    c64, c128 = shape.channels(64), shape.channels(128)
    return nn.Sequential(
        run(shape, 3, (64, 64), first_rate=0.3),
        run(shape, c64, (128, 128)),
        run(shape, c128, (256, 256, 256)),
    )


def stage(shape: Shape, inputs: int) -> nn.Sequential:
    """A pooling and three convolutions of 512."""
    return nn.Sequential(nn.MaxPool2d(2), run(shape, inputs, (512, 512, 512)))


def stages(shape: Shape) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The trunk of the attention networks in three parts, which end in l1, l2 and l3."""
    return bottom(shape), stage(shape, shape.channels(256)), stage(shape, shape.channels(512))


def global_branch(shape: Shape) -> nn.Sequential:
    """Local features to the global descriptor g: pooling, two convolutions, and a linear layer."""
    c512 = shape.channels(512)
    return nn.Sequential(
        nn.MaxPool2d(2),
        run(shape, c512, (512,)),
        nn.MaxPool2d(2),
        run(shape, c512, (512,)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Dropout(shape.rate(0.5)),
        nn.Linear(c512, c512),
    )


@final
class VGG(Network):
    """The baseline: thirteen convolutions, five poolings, two linear layers; no attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c64, c128, c256, c512 = (shape.channels(c) for c in (64, 128, 256, 512))
        self.normalise = shape.normalise()
        self.trunk = nn.Sequential(
            run(shape, 3, (64, 64), first_rate=0.3),
            nn.MaxPool2d(2),
            run(shape, c64, (128, 128)),
            nn.MaxPool2d(2),
            run(shape, c128, (256, 256, 256)),
            nn.MaxPool2d(2),
            run(shape, c256, (512, 512, 512)),
            nn.MaxPool2d(2),
            run(shape, c512, (512, 512, 512)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.penultimate = nn.Sequential(
            nn.Dropout(shape.rate(0.5)), nn.Linear(c512, c512), nn.BatchNorm1d(c512, eps=BN_EPS), nn.ReLU()
        )
        self.classify = nn.Sequential(nn.Dropout(shape.rate(0.5)), nn.Linear(c512, shape.classes))

    def features(self, x: Images) -> Tensor:
        vector: Tensor = self.penultimate(self.trunk(self.normalise(x)))
        return vector

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        return self.classify(self.features(x)), []


@final
class AttentionVGG(AttendingNetwork):
    """``vgg_att1`` attends to l3, ``vgg_att2`` to l2 and l3, ``vgg_att3`` to l1, l2 and l3."""

    def __init__(self, shape: Shape, attended: Literal[1, 2, 3], compatibility: Compatibility, kind: Head) -> None:
        super().__init__()
        c256, c512 = shape.channels(256), shape.channels(512)
        self.levels = ("l1", "l2", "l3")[-attended:]
        self.normalise = shape.normalise()
        self.bottom, self.middle, self.top = stages(shape)
        self.descriptor = global_branch(shape)
        widths = (c256, c512, c512)[-attended:]
        self.attention = nn.ModuleList(Attention(width, c512, compatibility, shape.rate(0.5)) for width in widths)
        self.head = head(kind, widths, shape.classes, shape.rate(0.5))

    def describe(self, x: Images) -> tuple[tuple[Tensor, ...], Tensor]:
        l1 = self.bottom(self.normalise(x))
        l2 = self.middle(l1)
        l3 = self.top(l2)
        return (l1, l2, l3), self.descriptor(l3)


@final
class GapVGG(Network):
    """Global average pooling and class activation maps (Zhou et al. 2016) on the attention networks' trunk.

    The map is the activation map of the predicted class at l3: the local features weighted by that class's
    row of the classifier, with its minimum moved to 0, then divided by its sum. A constant map becomes
    uniform.
    """

    levels = ("l3",)
    map_names: ClassVar = {"l3": ("cam", "activation")}

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.normalise = shape.normalise()
        self.bottom, self.middle, self.top = stages(shape)
        self.dropout = nn.Dropout(shape.rate(0.5))
        self.classify = nn.Linear(shape.channels(512), shape.classes)

    def _local(self, x: Images) -> Tensor:
        l3: Tensor = self.top(self.middle(self.bottom(self.normalise(x))))
        return l3

    def features(self, x: Images) -> Tensor:
        return self._local(x).mean(dim=(2, 3))

    def forward(self, x: Images) -> Tensor:
        logits: Tensor = self.classify(self.dropout(self.features(x)))
        return logits

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        l3 = self._local(x)
        logits = self.classify(self.dropout(l3.mean(dim=(2, 3))))
        rows = self.classify.weight[logits.argmax(dim=1)]
        activation = torch.einsum("bchw,bc->bhw", l3, rows)
        lifted = activation - activation.amin(dim=(1, 2), keepdim=True) + TINY
        return logits, [lifted / lifted.sum(dim=(1, 2), keepdim=True)]


@final
class ProgressiveVGG(Network):
    """Progressive attention (Seo et al. 2016): a sigmoid gate over l2, then softmax attention over l3.

    The gate multiplies l2, the gated features flow on to l3, and the vector attended there is the only one
    classified. Both are conditioned on g. As g must be known before the gate, its branch starts from l2.
    The map of l2 is the gate divided by its sum; the map of l3 is the softmax.
    """

    levels = ("l2", "l3")
    map_names: ClassVar = {"l2": ("l2_gate", "gate")}

    def __init__(self, shape: Shape, compatibility: Compatibility) -> None:
        super().__init__()
        c256, c512 = shape.channels(256), shape.channels(512)
        self.normalise = shape.normalise()
        self.bottom = bottom(shape)
        self.middle = stage(shape, c256)
        self.descriptor = global_branch(shape)
        self.gate_local = nn.Conv2d(c512, 1, 1)
        self.gate_global = nn.Linear(c512, 1, bias=False)
        self.top = stage(shape, c512)
        self.attention = Attention(c512, c512, compatibility, shape.rate(0.5))
        self.head = head("concat", (c512,), shape.classes, shape.rate(0.5))

    def _look(self, x: Images) -> tuple[Tensor, Tensor, Map]:
        l2 = self.middle(self.bottom(self.normalise(x)))
        g = self.descriptor(l2)
        gate = torch.sigmoid(self.gate_local(l2) + self.gate_global(g).unsqueeze(2).unsqueeze(3))
        vector, weights = self.attention(self.top(l2 * gate), g)
        return vector, gate.squeeze(1), weights

    def features(self, x: Images) -> Tensor:
        return self._look(x)[0]

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        vector, gate, weights = self._look(x)
        lifted = gate + TINY
        return self.head([vector]), [lifted / lifted.sum(dim=(1, 2), keepdim=True), weights]
