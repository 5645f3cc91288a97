"""Models that begin with a function that is flat at exactly 0 and 1, such as clamp, are attacked as if they did not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from planted import nets
from torch import Tensor, nn

import robustatt
from robustatt.attack.base import Oracle
from robustatt.attack.border import MARGIN, InsideBox, border_margin
from robustatt.attack.losses import log_odds
from robustatt.attack.recipe import Recipe
from robustatt.attack.recipe_files import parse
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.gradcam import input_gradient

Function = Callable[[Tensor], Tensor]

FLAT: dict[str, Function] = {
    "clamp": lambda x: x.clamp(0, 1),
    "relu": torch.relu,
    "hardtanh": lambda x: nn.functional.hardtanh(x, 0.0, 1.0),
    "minimum": lambda x: torch.minimum(torch.maximum(x, torch.zeros(())), torch.ones(())),
    "where": lambda x: torch.where(x > 0, x, torch.zeros(())),
}
#: the same after the usual changes of scale; the second function is the first without the flat part
SCALED: dict[str, tuple[Function, Function]] = {
    "-1 to 1": (lambda x: (2 * x - 1).clamp(-1, 1), lambda x: 2 * x - 1),
    "0 to 255": (lambda x: (255 * x).clamp(0, 255) / 255, lambda x: 255 * x / 255),
    "normalised": (
        lambda x: ((x - 0.485) / 0.229).clamp(-0.485 / 0.229, (1 - 0.485) / 0.229),
        lambda x: (x - 0.485) / 0.229,
    ),
}
ATTACKS = [
    "fgsm", "pgd", "mi-fgsm", "apgd-ce", "pgd-l2", "fmn", "fgsm-l2", "apgd-l1",
    parse({"name": "fmn-l2", "algorithm": "fmn", "norm": "l2", "steps": 20}, "test"),
    parse({"name": "targeted", "algorithm": "pgd", "targeted": "random", "steps": 10}, "test"),
    parse({"name": "aa", "algorithm": "autoattack", "steps": 6, "targets": 2, "queries": 10}, "test"),
]  # fmt: skip


class Before(nn.Module):
    """A function, then a network."""

    def __init__(self, function: Function, network: nn.Module) -> None:
        super().__init__()
        self.function, self.network = function, network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.function(x))
        return logits


def linear_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of two classes, right on images of which most pixels are exactly 0 or 1."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(60, 3, 4, 4, generator=generator)
    images = torch.where(torch.rand(images.shape, generator=generator) < 0.7, images.round(), images)
    layer = nn.Linear(48, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.copy_(torch.tensor([0.0, float((images.flatten(1) @ (layer.weight[0] - layer.weight[1])).mean())]))
    network = nn.Sequential(nn.Flatten(), layer)
    with torch.no_grad():
        return network, images, network(images).argmax(1)


def exact_accuracy(network: nn.Module, images: Tensor, labels: Tensor, eps: float) -> float:
    """The robust accuracy of the linear classifier: each pixel moves against the margin as far as ball and box allow."""
    weight, bias = network[1].weight.double(), network[1].bias.double()  # type: ignore[index]
    sign = 1.0 - 2.0 * labels.double()[:, None]
    x, slope = images.flatten(1).double(), (weight[0] - weight[1]) * sign
    margin = (x * slope).sum(1) + (bias[0] - bias[1]) * sign[:, 0]
    room = torch.where(slope > 0, x, 1 - x).clamp(max=eps)
    return float((margin - (slope.abs() * room).sum(1) > 0).double().mean())


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd-ce"])
def test_the_robust_accuracy_of_a_linear_model_behind_a_clamp_is_exact(flat: Function, attack: str) -> None:
    network, images, labels = linear_problem()
    eps = [0.02, 0.05, 0.1, 0.2]
    curve = robustatt.sweep(Before(flat, network), (images, labels), attacks=[attack], eps=eps).curve(attack)
    expected = [exact_accuracy(network, images, labels, radius) for radius in eps]
    assert 0 < expected[-1] < expected[0] <= 1
    assert curve["accuracy"].tolist()[1:] == pytest.approx(expected)


def _records(model: nn.Module, attacks: list[str | Recipe], count: int = 16) -> pd.DataFrame:
    return robustatt.sweep(model, nets.held_out(count), attacks=attacks, eps=[0.03, 0.08, 0.3], seed=1).records


def _assert_alike(bare: pd.DataFrame, behind: pd.DataFrame) -> None:
    """The same rows but for the odd image that hangs on rounding: a gradient 2**-20 inside the box is not the same bits."""
    assert bare[["attack", "eps", "index"]].equals(behind[["attack", "eps", "index"]])
    held, still = bare["adv_pred"] == bare["label"], behind["adv_pred"] == behind["label"]
    assert 0.2 < held.mean() < 0.99
    assert int((held != still).sum()) <= 1
    assert int((bare["zero_grad"] != behind["zero_grad"]).sum()) == 0


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT)
def test_records_are_the_same_with_and_without_the_flat_function(flat: Function) -> None:
    network = nets.trained(nets.plain)
    _assert_alike(_records(Before(lambda x: x, network), ATTACKS), _records(Before(flat, network), ATTACKS))


@pytest.mark.parametrize(("flat", "plain"), SCALED.values(), ids=SCALED)
def test_a_change_of_scale_before_the_flat_function_changes_nothing(flat: Function, plain: Function) -> None:
    network, attacks = nets.trained(nets.plain), ["fgsm", "pgd", "pgd-l2"]
    _assert_alike(_records(Before(plain, network), attacks), _records(Before(flat, network), attacks))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_rounds_its_input_before_it_clamps(dtype: torch.dtype) -> None:
    network = nets.trained(nets.convolutional)

    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    def behind(x: Tensor) -> Tensor:
        return x.to(dtype).clamp(0, 1).float()

    images = nets.held_out(4)[0].float() / 255
    assert border_margin(Before(rounded, network), images) == 0
    assert border_margin(Before(behind, network), images) == torch.finfo(dtype).eps
    assert border_margin(Before(FLAT["relu"], network), images) == MARGIN
    broken = {}
    for name, function in {"rounded": rounded, "behind": behind}.items():
        result = robustatt.sweep(Before(function, network), nets.held_out(60), attacks=["fgsm", "pgd"], eps="8,16")
        broken[name] = np.concatenate([result.curve(attack)["accuracy"].to_numpy() for attack in ("fgsm", "pgd")])
    assert (broken["behind"] - broken["rounded"]).max() <= 2 / 60  # 12 where the flat part is not left
    assert (broken["rounded"] - broken["behind"]).max() <= 6 / 60  # a border moved by a step of bfloat16 changes the images


@pytest.mark.parametrize("algorithm", ["torchattacks:PGD", "torchattacks:FGSM", "foolbox:LinfPGD", "foolbox:L2PGD"])
def test_attacks_of_other_libraries_get_the_gradient_inside_the_box(algorithm: str) -> None:
    norm = "l2" if "L2" in algorithm else "linf"
    attack = parse({"name": "theirs", "algorithm": algorithm, "norm": norm}, "test")
    network = nets.trained(nets.plain)
    _assert_alike(_records(Before(lambda x: x, network), [attack]), _records(Before(FLAT["clamp"], network), [attack]))


def test_the_answer_of_a_query_is_that_of_the_image_to_its_slack() -> None:
    network = nets.trained(nets.convolutional)
    image, label = nets.held_out(16)[0].float() / 255, nets.held_out(16)[1]
    answer = Oracle(network, MARGIN).query(image, label, log_odds, gradient=True)
    exact = Oracle(network).query(image, label, log_odds, gradient=True)
    assert ((answer.loss - exact.loss).abs() <= answer.slack + 1e-5).all()
    assert 0 < float(torch.as_tensor(answer.slack).max()) < 1e-3
    assert exact.slack == 0


def test_without_a_gradient_the_model_sees_the_image_itself() -> None:
    seen: list[Tensor] = []
    model = InsideBox(Before(lambda x: seen.append(x.detach()) or x, nn.Flatten()), MARGIN)
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    model(image)
    model(image.clone().requires_grad_())
    assert seen[0].flatten().tolist() == [0.0, 0.5, 1.0]
    assert seen[1].flatten().tolist() == [MARGIN, 0.5, 1 - MARGIN]


def test_gradient_saliency_does_not_stop_at_the_border() -> None:
    network = nets.trained(nets.plain)
    image = nets.held_out(4)[0].float() / 255
    bare, behind = (input_gradient(Before(function, network), image) for function in (lambda x: x, FLAT["clamp"]))
    assert torch.allclose(bare, behind, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("build", [nets.convolutional, nets.plain, nets.perceptron, nets.smooth, nets.linear])
def test_a_network_that_hides_nothing_is_asked_at_the_image_itself(build: Callable[[], nn.Module]) -> None:
    image = nets.held_out(8)[0].float() / 255
    with frozen(nets.trained(build), "net", torch.device("cpu"), image) as classifier:
        assert classifier.box_margin == 0
