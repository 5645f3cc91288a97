"""The ResNet family of Jetley et al. (2018): a pre-activation bottleneck ResNet and its attention variants.

He et al. (2016, identity mappings): depth 9n + 2, three stages of n units, 64, 128 and 256 channels wide. The
attention networks look at the ends of the last one or two stages, before the closing BatchNorm.
"""

from __future__ import annotations

from typing import Literal, final

from torch import Tensor, nn

from robustatt.models.attention import AttendingNetwork, Attention, Images, Map, Network, head
from robustatt.models.families import Compatibility, Head
from robustatt.models.vgg import Shape


@final
class Unit(nn.Module):
    """BatchNorm, ReLU and convolution, three times (1x1, 3x3, 1x1), added to the input.

    Where the shape changes, the input goes through a 1x1 convolution of its first BatchNorm and ReLU.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.open = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.change = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if self.change else nn.Identity()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
        )

    def forward(self, x: Images) -> Images:
        opened = self.open(x)
        carried = self.shortcut(opened if self.change else x)
        total: Tensor = carried + self.residual(opened)
        return total


def _stage(units: int, inputs: int, inner: int, outputs: int, stride: int) -> nn.Sequential:
    first = Unit(inputs, inner, outputs, stride)
    return nn.Sequential(first, *(Unit(outputs, inner, outputs, 1) for _ in range(units - 1)))


def _stages(shape: Shape, depth: int) -> tuple[nn.Conv2d, nn.Sequential, nn.Sequential, nn.Sequential]:
    """The first convolution and the three stages."""
    units = (depth - 2) // 9
    c16, c32, c64, c128, c256 = (shape.channels(c) for c in (16, 32, 64, 128, 256))
    return (
        nn.Conv2d(3, c16, 3, padding=1, bias=False),
        _stage(units, c16, c16, c64, 1),
        _stage(units, c64, c32, c128, 2),
        _stage(units, c128, c64, c256, 2),
    )


@final
class ResNet(Network):
    """The baseline: global average pooling and one linear layer; no attention."""

    def __init__(self, shape: Shape, depth: int) -> None:
        super().__init__()
        c256 = shape.channels(256)
        self.normalise = shape.normalise()
        self.stem, self.stage1, self.stage2, self.stage3 = _stages(shape, depth)
        self.close = nn.Sequential(nn.BatchNorm2d(c256), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classify = nn.Linear(c256, shape.classes)

    def features(self, x: Images) -> Tensor:
        last = self.stage3(self.stage2(self.stage1(self.stem(self.normalise(x)))))
        vector: Tensor = self.close(last)
        return vector

    def attend(self, x: Images) -> tuple[Tensor, list[Map]]:
        return self.classify(self.features(x)), []


@final
class AttentionResNet(AttendingNetwork):
    """``resnet164_att1`` attends to the end of stage 3, ``resnet164_att2`` to the ends of stages 2 and 3."""

    def __init__(self, shape: Shape, attended: Literal[1, 2], compatibility: Compatibility, kind: Head, depth: int) -> None:
        super().__init__()
        c256 = shape.channels(256)
        self.levels = ("l2", "l3")[-attended:]
        self.normalise = shape.normalise()
        self.stem, self.stage1, self.stage2, self.stage3 = _stages(shape, depth)
        self.descriptor = nn.Sequential(
            nn.BatchNorm2d(c256),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(c256, c256, 3, padding=1, bias=False),
            nn.BatchNorm2d(c256),
            nn.ReLU(inplace=True),
            nn.Dropout(shape.rate(0.4)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(shape.rate(0.5)),
            nn.Linear(c256, c256),
        )
        widths = (shape.channels(128), c256)[-attended:]
        self.attention = nn.ModuleList(Attention(width, c256, compatibility, shape.rate(0.5)) for width in widths)
        self.head = head(kind, widths, shape.classes, shape.rate(0.3))

    def describe(self, x: Images) -> tuple[tuple[Tensor, ...], Tensor]:
        l2 = self.stage2(self.stage1(self.stem(self.normalise(x))))
        l3 = self.stage3(l2)
        return (l2, l3), self.descriptor(l3)
