"""Small models for tests: linear ones whose exact answer is known, one trained in seconds, one without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """logits = weight x + bias, scaled; the distance to the boundary has a closed form."""

    def __init__(self, classes: int = 2, size: int = 6, scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 3 * size * size, generator=generator) * 0.1)
        self.bias = nn.Parameter(torch.randn(classes, generator=generator) * 0.01)
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        return self.scale * ((image - 0.5).flatten(1) @ self.weight.T + self.bias)


def sibling() -> Linear:
    """Another linear model of the same images, as a name on the command line."""
    return Linear(seed=5)


def linear_data(model: Linear, n: int, size: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images away from the box's walls, near the boundary; every ninth label is wrong."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.2 * torch.rand(n, 3, size, size, generator=generator)
    with torch.no_grad():
        label = model(image).argmax(1)
    label[::9] = (label[::9] + 1) % len(model.bias)
    return image, label


def exact_distance(model: Linear, image: Tensor, label: Tensor, norm: str) -> Tensor:
    """How far each image is from the nearest other class, in float64; negative for misclassified ones."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    logits = (image.double() - 0.5).flatten(1) @ weight.T + bias
    gap = logits.gather(1, label[:, None]) - logits
    across = weight[label][:, None] - weight[None]
    size = across.abs().sum(2) if norm == "linf" else across.norm(dim=2) if norm == "l2" else across.abs().amax(2)
    return (gap / size.clamp_min(1e-30)).scatter(1, label[:, None], torch.inf).amin(1)


def three_classes() -> nn.Module:
    """A network for images of 3 x 32 x 32 whose classes are those of no data set here."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))


class Digits(nn.Sequential):
    """Two convolutions for handwritten digits of 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10),
        )  # fmt: skip


def digits_data() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits as 3 x 8 x 8 in [0, 1]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    image = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8).expand(-1, 3, 8, 8).contiguous()
    return image, torch.tensor(labels)


def trained_digits(steps: int = 120, adversarial: float = 0.0) -> Digits:
    """A net of about 97 % on the last 500 digits, trained on the others; a second or two. With `adversarial`, on images under
    FGSM of that size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Digits()
        image, label = digits_data()
        image, label = image[:-500], label[:-500]
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            batch = torch.randint(len(label), (64,))
            pixels = image[batch]
            if adversarial:
                pixels.requires_grad_()
                (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(pixels), label[batch]), pixels)
                pixels = (pixels + adversarial * grad.sign()).clamp(0, 1).detach()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels), label[batch]).backward()
            optimizer.step()
    return model.eval()


class Rounded(nn.Module):
    """A model behind 8-bit rounding: its gradient is zero wherever it exists."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model((image * 255).round() / 255)
        return logits


class TwoClassLinear(nn.Module):
    """logits = W (x - 0.5) + b with two classes: its smallest L-infinity change is |margin| / ||w1 - w0||_1."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 3 * size * size, generator=generator) / size)
        self.bias = nn.Parameter(torch.tensor([0.05, -0.05]))

    def forward(self, image: Tensor) -> Tensor:
        return (image - 0.5).flatten(1) @ self.weight.T + self.bias


class Scaled(nn.Module):
    """The same classifier with its logits multiplied: nothing about its decisions changes."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * self.model(image)


class SmallNet(nn.Module):
    """A small convolutional network with BatchNorm and dropout, enough to be fooled."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).flatten(1))


def images(count: int, size: int = 8, seed: int = 0) -> Tensor:
    """Random images whose pixels stay away from the box's sides."""
    return 0.25 + 0.5 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small_net(seed: int = 0) -> nn.Module:
    """A SmallNet with random weights and non-trivial BatchNorm statistics, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallNet()
        with torch.no_grad():
            for _ in range(10):
                net(images(32, 12, seed=int(torch.randint(1000, (1,)))))
            net.head.weight *= 8
    return net.eval()
