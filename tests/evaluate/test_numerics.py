"""Faster ways to run a model give the labels of the plain one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_models import digits_data, trained_digits
from torch import Tensor, nn

from robustatt import models
from robustatt.attack import recipe_files as recipes
from robustatt.errors import InputError
from robustatt.evaluate.classifier import SAFETY, Numerics, frozen, top2_margin
from robustatt.plan import BoundPlan, ModelEntry, Plan

CPU = torch.device("cpu")
SCREEN = Numerics("bf16-screen")


class Recorded(nn.Module):
    """Says how many images came in float32 once the probe is over."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.float32 = net, 0

    def forward(self, image: Tensor) -> Tensor:
        self.float32 += 0 if torch.is_autocast_enabled("cpu") else len(image)
        logits: Tensor = self.net(image)
        return logits


def line_between(image: Tensor, steps: int) -> Tensor:
    """Images on lines between pairs, which cross decision boundaries and so come near ties."""
    share = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    pairs = zip(image[::2], image[1::2], strict=True)
    return torch.cat([one * (1 - share) + other * share for one, other in pairs])


def test_screened_labels_are_those_of_float32_also_near_ties() -> None:
    net = trained_digits()
    image, _ = digits_data()
    between = line_between(image[:40], 256)
    index = torch.arange(len(between))
    label = torch.zeros(len(between), dtype=torch.int64)
    with frozen(net, "m", CPU, image[:16]) as plain, frozen(net, "m", CPU, image[:16], SCREEN) as screened:
        expected, found = plain.predict(between, label, index), screened.predict(between, label, index)
        assert screened.screen is not None
        assert screened.screen > 0
        raw = screened.fast(between).argmax(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = screened.fast(between)
    assert (found.prediction == expected.prediction).all()
    assert (coarse.argmax(1) != raw).any(), "bfloat16 changes no label here, so this test would show nothing"
    far = top2_margin(expected.logits) > 2 * SAFETY * screened.screen
    assert far.any()
    assert not torch.equal(found.margin[far], expected.margin[far])  # bfloat16 was used where it is safe
    assert (found.margin - expected.margin).abs().max() < SAFETY * screened.screen


def test_most_images_are_judged_without_float32() -> None:
    image, label = digits_data()
    net = Recorded(trained_digits())
    with frozen(net, "m", CPU, image[:16], SCREEN) as classifier:
        for module in (classifier.fast, classifier.original):
            module.float32 = 0  # type: ignore[assignment]
        classifier.predict(image[:200], label[:200], torch.arange(200))
        again = int(classifier.fast.float32) + int(classifier.original.float32)  # type: ignore[arg-type]
    assert 0 <= again < 60


def test_attention_maps_come_with_the_screen() -> None:
    network = models.load("vgg_att3")
    image, label = torch.rand(6, 3, 32, 32), torch.zeros(6, dtype=torch.int64)
    with frozen(network, "m", CPU, image) as plain, frozen(network, "m", CPU, image, SCREEN) as screened:
        expected, found = (each.predict(image, label, torch.arange(6)) for each in (plain, screened))
    for before, after in zip(expected.maps, found.maps, strict=True):
        assert after.dtype == torch.float32
        assert torch.allclose(before, after, atol=0.02 * float(before.max()))


def test_nan_is_found_through_the_screen() -> None:
    from robustatt.errors import NonFiniteLogits

    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            logits = image.flatten(1)[:, :3]
            return torch.where(image.flatten(1)[:, :1] > 0.9, torch.nan, logits)

    image = torch.full((4, 1, 2, 2), 0.5)
    with frozen(Broken(), "m", CPU, image, SCREEN) as classifier, pytest.raises(NonFiniteLogits, match="example 1"):
        classifier.predict(torch.stack([image[0], image[0] + 0.45]), torch.zeros(2, dtype=torch.int64), torch.arange(2))


def bound(plan: Plan) -> list[str]:
    return [cell.key for cell in BoundPlan(plan, 10, ("a", "b"), "data", ("weights",)).cells()]


def test_precision_decides_the_key_and_compilation_does_not() -> None:
    plan = Plan((ModelEntry("m", "m"),), (recipes.load("fgsm"),), (Fraction(1, 255),))
    assert bound(plan) != bound(replace(plan, precision="bf16-screen"))
    assert bound(plan) == bound(replace(plan, compile=True))
    again = Plan.from_toml(replace(plan, precision="bf16-screen", compile=True).to_toml(), "plan")
    assert again.precision == "bf16-screen"
    assert again.compile
    with pytest.raises(InputError, match="--precision 'bf16': did you mean 'bf16-screen'"):
        replace(plan, precision="bf16")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same_labels_at_any_batch_size() -> None:
    net = trained_digits()
    image, label = digits_data()
    with frozen(net, "m", CPU, image[:16]) as plain, frozen(net, "m", CPU, image[:16], Numerics(compiled=True)) as fast:
        for count in (1, 7, 64):
            rows = slice(0, count)
            expected, found = (each.predict(image[rows], label[rows], torch.arange(count)) for each in (plain, fast))
            np.testing.assert_array_equal(found.prediction, expected.prediction)
            np.testing.assert_allclose(found.margin, expected.margin, atol=1e-3)
        leaf = image[:5].clone().requires_grad_()
        (grad,) = torch.autograd.grad(fast.logits(leaf).sum(), leaf)
        other = image[:5].clone().requires_grad_()
        (expected_grad,) = torch.autograd.grad(plain.logits(other).sum(), other)
        np.testing.assert_allclose(grad, expected_grad, atol=1e-4)


@pytest.mark.parametrize("lead", ["within rounding", "clear"])
def test_ties_are_decided_by_the_model_itself(lead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast copy that is off by more than any lead: where leads are within the rounding its answer is never used."""
    net = trained_digits()
    image = digits_data()[0][:32]
    index = torch.arange(len(image))
    with frozen(net, "net", CPU, image) as classifier, torch.no_grad():
        assert classifier.fast is not classifier.original, "BatchNorm is folded"
        mistaken, maps = classifier._look(image)
        monkeypatch.setattr(classifier, "_look", lambda _: (mistaken.flip(1), maps))
        widest = float(top2_margin(mistaken).max())
        classifier.rounding = 2 * widest / SAFETY if lead == "within rounding" else 0.0
        found = classifier.predict(image, torch.zeros(len(image), dtype=torch.int64), index)
        true = classifier.original(image).argmax(1)
    assert torch.equal(found.prediction, true if lead == "within rounding" else 9 - true)
