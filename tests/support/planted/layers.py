"""The mistakes as layers: each is put before or after a healthy network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Affine(nn.Module):
    """x * factor + offset, a number for each channel."""

    def __init__(self, factor: Any, offset: Any) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor).view(1, -1, 1, 1))
        self.register_buffer("offset", torch.tensor(offset).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def normalised() -> Affine:
    """The usual normalisation by ImageNet's mean and deviation."""
    return Affine([1 / s for s in IMAGENET[1]], [-m / s for m, s in zip(*IMAGENET, strict=True)])


def undone() -> Affine:
    """Takes such a normalisation back: a network behind it wants normalised images."""
    return Affine(list(IMAGENET[1]), list(IMAGENET[0]))


class Stuck(nn.Sequential):
    """A train() that ignores its argument for BatchNorm."""

    def train(self, mode: bool = True) -> Stuck:
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.training = True
        return self


class Lively(nn.Sequential):
    """Switches its dropout on in every forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.modules():
            if isinstance(part, nn.Dropout):
                part.train()
        return super().forward(x)


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.3)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class SummedMaps(nn.Module):
    """A network whose own attention map is unnormalised: it sums to the number of positions."""

    levels = ("gate",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        share = (8 * x.mean(1)).flatten(1).softmax(1)
        return self(x), [share.view(len(x), *x.shape[2:]) * share.shape[1]]


class Rounded(nn.Module):
    """8-bit rounding, whose gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 255).round() / 255


class StraightThrough(nn.Module):
    """Rounding to `levels` with the gradient of the identity."""

    def __init__(self, levels: int = 255) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x * self.levels).round() / self.levels - x).detach()


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class NanFor(nn.Module):
    """NaN logits wherever one class wins."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.where((logits.argmax(1) == 3)[:, None], torch.nan, logits)


class NormAtZero(nn.Module):
    """Adds the length of the black part of the border: finite, but its gradient is 0/0 for black borders."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * x[:, :, :, :1].flatten(1).square().sum(1).sqrt().view(-1, 1, 1, 1)


class Difference(nn.Module):
    """The logit of class 1 over class 0: one number an image."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, 1:2] - logits[:, :1]


class GuardedRoot(nn.Module):
    """Adds a root where it exists: the branch that is not taken is NaN wherever a pixel is below 0.5, and so is the
    gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * torch.where(x > 0.5, (x - 0.5).sqrt(), 0.0)


class BatchCentred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True) + 0.3


class Renamed(nn.Module):
    """Logits in another order of the classes."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.order]


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return -grad


class Flipped(nn.Module):
    """The identity with a gradient of the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Backwards.apply(x)
        return result


class FlippedOffGrid(nn.Module):
    """The true gradient on stored pixels only; the wrong sign anywhere else."""

    def forward(self, x: Tensor) -> Tensor:
        on_grid = ((x * 255 - (x * 255).round()).abs() < 1e-3).flatten(1).all(1).view(-1, 1, 1, 1)
        result: Tensor = torch.where(on_grid, x, _Backwards.apply(x))
        return result


class FlippedWhenWrong(nn.Module):
    """A network whose gradient turns round where the prediction is not that of the nearest training image."""

    def __init__(self, net: nn.Module, image: Tensor, label: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("known", image.flatten(1))
        self.register_buffer("label", label)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.label[torch.cdist(x.flatten(1), self.known).argmin(1)]
            right = (self.net(x).argmax(1) == wanted).view(-1, 1, 1, 1)
        result: Tensor = self.net(torch.where(right, x, _Backwards.apply(x)))
        return result


class Staircase(nn.Module):
    """Four grey levels, joined by a slope so small that it leads the gradient astray."""

    def __init__(self) -> None:
        super().__init__()
        slope = torch.randn(192, 10, generator=torch.Generator().manual_seed(0))
        self.register_buffer("slope", 1e-3 * slope)

    def wrap(self, net: nn.Module) -> nn.Module:
        return _Stairs(net, self.slope)


class _Stairs(nn.Module):
    def __init__(self, net: nn.Module, slope: Tensor) -> None:
        super().__init__()
        self.net, self.slope = net, nn.Parameter(slope, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x * 8).round() / 8) + x.flatten(1) @ self.slope
        return logits


class Wavy(nn.Module):
    """Two classes by a wave along one direction: what a step breaks, a step twice as long mends."""

    def __init__(self) -> None:
        super().__init__()
        direction = torch.randn(192, generator=torch.Generator().manual_seed(0)).sign()
        self.register_buffer("direction", direction)

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin((x.flatten(1) @ self.direction) * 255 / 192 * torch.pi / 6)
        return torch.stack([wave, -wave], 1)


class Amplified(nn.Module):
    """Enlarges what is left of a pixel after 8-bit rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 60 * (x - ((x * 255).round() / 255).detach())
