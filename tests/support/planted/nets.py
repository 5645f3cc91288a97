"""Small networks for 8x8 digits, trained in a second or two, that the mistakes are planted in."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

TEST = 400


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits as 3 x 8 x 8 uint8, and their classes."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = torch.tensor((pixels / 16 * 255).round(), dtype=torch.uint8)
    return image.reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1), torch.tensor(labels)


def train_images() -> tuple[Tensor, Tensor]:
    """All but the last 400."""
    image, label = digits()
    return image[:-TEST], label[:-TEST]


def held_out(count: int = 64) -> tuple[Tensor, Tensor]:
    """The first of the last 400."""
    image, label = digits()
    return image[-TEST:][:count], label[-TEST:][:count]


def convolutional(width: int = 8) -> nn.Module:
    """Two convolutions with BatchNorm, dropout and max-pooling."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(2 * width * 16, 10),
    )  # fmt: skip


def smooth() -> nn.Module:
    """Strided convolutions with GELU and GroupNorm, average-pooled."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.GELU(), nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.GELU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 4, 10),
    )  # fmt: skip


def perceptron() -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 10))


def linear() -> nn.Module:
    """Softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


def plain() -> nn.Module:
    """Convolutions and ReLU, nothing else."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 16, 10),
    )  # fmt: skip


def trained(build: Callable[[], nn.Module], steps: int = 200, eps: float = 0.0) -> nn.Module:
    """A network trained with Adam, in eval mode; with `eps`, on images moved by one sign step from a random start.

    Trained once and copied each time: a mistake planted in one copy, such as BatchNorm that goes on counting while it is
    attacked, spoils no other.
    """
    return copy.deepcopy(_trained(build, steps, eps))


@functools.cache
def _trained(build: Callable[[], nn.Module], steps: int, eps: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
        image, label = train_images()
        image = image.float() / 255
        optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
        for _ in range(steps):
            chosen = torch.randint(len(label), (96,))
            batch, truth = image[chosen], label[chosen]
            if eps:
                batch = _attacked(net, batch, truth, eps)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch), truth).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def _attacked(net: nn.Module, batch: Tensor, truth: Tensor, eps: float) -> Tensor:
    start = (batch + eps * (2 * torch.rand_like(batch) - 1)).clamp(0, 1).requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(net(start), truth), start)
    return torch.clamp(start.detach() + 1.25 * eps * grad.sign(), batch - eps, batch + eps).clamp(0, 1)
