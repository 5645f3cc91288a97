"""The fast copy of a model: where BatchNorm is folded, in which order of memory it runs, and when it is not used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_classifier import CPU, Network, by_leads, first_pixels
from tiny_models import images, small_net
from torch import Tensor, nn

from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.fast_copy import fold_batchnorm


def test_the_fast_copy_is_folded_and_channels_last_and_the_original_is_not() -> None:
    net = small_net()
    with frozen(net, "mine", CPU, images(4)) as classifier:
        assert sum(isinstance(part, nn.BatchNorm2d) for part in classifier.original.modules()) == 2
        assert not any(isinstance(part, nn.BatchNorm2d) for part in classifier.fast.modules())
        weight = classifier.fast.get_submodule("features.0").weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()
        with torch.no_grad():
            assert 0 < classifier.rounding < 1e-5 * float(net(images(4)).abs().max())
            error = (classifier.logits(images(4)) - net(images(4))).abs().max()
        assert classifier.rounding >= float(error)


class Viewing(nn.Module):
    """A network that is bound to the usual order in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.conv(x))
        logits: Tensor = self.head(features.view(-1, 4 * 36))
        return logits


def test_a_network_bound_to_the_usual_order_in_memory_is_still_folded() -> None:
    with frozen(Viewing().eval(), "mine", CPU, images(4)) as classifier:
        assert classifier.memory_format == torch.contiguous_format
        assert isinstance(classifier.fast.norm, nn.Identity)


@pytest.mark.parametrize("size", [2.0**-10, 2.0**10])
def test_rounding_is_never_below_that_of_float32(size: float) -> None:
    with frozen(Network(lambda x: size * first_pixels(x)), "mine", CPU, by_leads()) as classifier:
        assert classifier.rounding == pytest.approx(1e-7 * 0.5 * size)


def test_logits_of_zero_are_no_reason_against_a_copy() -> None:
    with frozen(Network(lambda x: 0 * first_pixels(x)), "mine", CPU, by_leads()) as classifier:
        assert classifier.fast is not classifier.original
        assert classifier.rounding == pytest.approx(1e-19)


def test_rounding_is_judged_by_the_size_of_the_logits() -> None:
    net = small_net()
    net.head.weight.data *= 1e5
    with frozen(net, "mine", CPU, images(4)) as classifier:
        assert classifier.rounding > 1e-3, "larger than a fixed limit"
        assert classifier.fast is not classifier.original


class Restless(nn.Module):
    """Other logits in each pass, by a hundredth of their size."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size, self.passes = size, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.size * (first_pixels(x) + self.passes / 200)


@pytest.mark.parametrize("model", [
    Restless(1e-3), Restless(1.0), Network(lambda x: first_pixels(x) * torch.nan), Network(first_pixels).half(),
], ids=["small logits", "restless", "NaN", "half precision"])  # fmt: skip
def test_a_copy_that_is_not_the_same_is_not_used(model: nn.Module) -> None:
    with frozen(model, "mine", CPU, by_leads()) as classifier:
        assert classifier.fast is classifier.original
        assert (classifier.memory_format, classifier.rounding) == (torch.contiguous_format, 0.0)


class Block(nn.Module):
    """What a wiring makes of two convolutions and two BatchNorms."""

    def __init__(self, wiring: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.two, self.late = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.wiring = wiring
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in (*self.parameters(), self.norm.running_mean, self.late.running_mean):
                value.copy_(0.5 * torch.randn(value.shape, generator=generator))  # type: ignore[union-attr]
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


WIRINGS: dict[str, tuple[Callable[[Any, Tensor], Tensor], set[str]]] = {
    "one after the other": (lambda m, x: m.late(m.two(m.norm(m.one(x)))), {"norm", "late"}),
    "on the image, then on a convolution": (lambda m, x: m.late(m.two(m.norm(x))), {"late"}),
    "after a function": (lambda m, x: m.late(m.two(m.norm(m.one(x).relu()))), {"late"}),
    "after no convolution": (lambda m, x: m.late(m.norm(m.one(x))), {"norm"}),
    "of a convolution that is used again": (lambda m, x: m.norm(y := m.one(x)) + y + m.late(m.two(x)), {"late"}),
    "of a convolution that is called twice": (lambda m, x: m.norm(m.one(x)) + m.one(x) + m.late(m.two(x)), {"late"}),
    "of a norm that is called twice": (lambda m, x: m.norm(m.one(x)) + m.norm(x) + m.late(m.two(x)), {"late"}),
    "with functions around": (lambda m, x: m.late(m.two(m.norm(m.one(2 * x)).relu())).tanh(), {"norm", "late"}),
    "untraceable": (lambda m, x: m.norm(m.one(x)) if x.sum() > 0 else x, set()),
}


@pytest.mark.parametrize(("wiring", "folded"), WIRINGS.values(), ids=WIRINGS)
def test_batchnorm_is_folded_where_it_only_follows_one_convolution(wiring: Any, folded: set[str]) -> None:
    model, image = Block(wiring), images(3)
    with torch.no_grad():
        expected = model(image)
        found = fold_batchnorm(model)
        assert found is model
        torch.testing.assert_close(found(image), expected, atol=1e-5, rtol=1e-4)
    assert {name for name in ("norm", "late") if isinstance(getattr(model, name), nn.Identity)} == folded


def hook(*_: Any) -> None:
    """Hears, and changes nothing."""


@pytest.mark.parametrize("spoil", [
    lambda m: m.one.register_forward_hook(hook), lambda m: m.norm.register_forward_hook(hook),
    lambda m: m.one.register_forward_pre_hook(hook), lambda m: m.norm.register_forward_pre_hook(hook), lambda m: m.norm.train(),
    lambda m: setattr(m, "norm", nn.BatchNorm2d(3, track_running_stats=False).eval()), lambda m: setattr(m, "one", nn.Identity()),
], ids=["hook", "hook on norm", "hook before", "hook before norm", "training", "no statistics", "no convolution"])  # fmt: skip
def test_what_a_batchnorm_or_its_convolution_does_besides_is_kept(spoil: Callable[[Any], Any]) -> None:
    model = Block(WIRINGS["one after the other"][0])
    spoil(model)
    parts = (model.one, model.norm)
    fold_batchnorm(model)
    assert (model.one, model.norm) == parts
    assert isinstance(model.late, nn.Identity), "the other pair is folded"


def test_inside_the_form_of_other_dtypes_batchnorm_is_folded_too() -> None:
    net = small_net().double()
    with frozen(net, "mine", CPU, images(4)) as classifier:
        assert classifier.fast is not classifier.original
        assert not any(isinstance(part, nn.BatchNorm2d) for part in classifier.fast.modules())
