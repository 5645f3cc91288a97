"""CBAM and the vision transformer of the family against computations of their own in float64, and their training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from robustatt import models
from robustatt.models.cbam import ChannelGate, SpatialGate
from robustatt.models.vit import positions, rolled_out
from robustatt.train import TrainRequest
from robustatt.train.schedule import learning_rate, optimiser_of


def vit(seed: int = 0) -> models.Network:
    torch.manual_seed(seed)
    return models.build("vit", classes=7, width=0.03125, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()


def by_hand(network: models.Network, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Logits, rollout and the weights of each block of one image, token by token, from the state in float64."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    image = (image.double() - state["normalise.mean"][0]) / state["normalise.std"][0]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    side, width = image.shape[2] // 4, len(state["class_token"])
    kernel = state["embed.weight"].flatten(1)
    patches = torch.stack([
        kernel @ image[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten() + state["embed.bias"]
        for i in range(side) for j in range(side)
    ])  # fmt: skip
    x = torch.cat([state["class_token"][None], layer_norm(patches, "embedded") + positions(side, side, width).double()])
    weights, rollout = [], torch.eye(len(x), dtype=torch.float64)
    for block in (f"blocks.{place}" for place in range(6)):
        q, k, v = linear(layer_norm(x, f"{block}.before_attention"), f"{block}.qkv").chunk(3, dim=1)
        heads, per = [], width // 6
        for head in range(6):
            own = slice(head * per, (head + 1) * per)
            scores = (q[:, own] @ k[:, own].T / math.sqrt(per)).exp()
            heads.append(scores / scores.sum(1, keepdim=True))
        mixed = torch.cat([w @ v[:, i * per : (i + 1) * per] for i, w in enumerate(heads)], dim=1)
        x = x + linear(mixed, f"{block}.project")
        hidden = linear(layer_norm(x, f"{block}.before_perceptron"), f"{block}.perceptron.0")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{block}.perceptron.3")
        weights.append(torch.stack(heads).mean(0))
        rollout = (weights[-1] + torch.eye(len(x), dtype=torch.float64)) / 2 @ rollout
    return linear(layer_norm(x[:1], "close"), "classify")[0], rollout, weights


def test_the_vit_equals_its_formula_in_float64() -> None:
    network, images = vit(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in network.parameters():  # attention that is not almost even
            parameter.add_(0.3 * torch.randn(parameter.shape))
        logits, maps = network.attend(images)
        torch.testing.assert_close(network(images), logits, rtol=1e-4, atol=1e-4)
    assert network.levels == ("block1", "block2", "block3", "block4", "block5", "block6", "rollout")
    for place, image in enumerate(images):
        expected, rollout, weights = by_hand(network, image)
        torch.testing.assert_close(logits[place].double(), expected, rtol=1e-4, atol=1e-4)
        for level, matrix in zip(maps, [*weights, rollout], strict=True):
            row = matrix[0, 1:] / matrix[0, 1:].sum()
            torch.testing.assert_close(level[place].double(), row.view(8, 8), rtol=1e-3, atol=1e-6)


def test_a_rollout_of_even_attention_is_the_power_of_one_step() -> None:
    even = torch.full((1, 5, 5), 0.2)
    rolled = None
    for _ in range(3):
        rolled = rolled_out(even, rolled)
    expected = 0.125 * torch.eye(5) + 0.875 * 0.2  # (I + J) / 2 three times, where J J = J
    torch.testing.assert_close(rolled[0], expected)


def test_positions_are_all_different_and_say_rows_from_columns() -> None:
    places = positions(5, 7, 24)
    assert places.shape == (35, 24)
    assert float(torch.cdist(places, places).fill_diagonal_(9).min()) > 0.1
    torch.testing.assert_close(places.view(5, 7, 24)[2, :, 12:], places.view(5, 7, 24)[2, :1, 12:].expand(7, -1))


def test_a_vit_takes_images_whose_sides_are_no_multiples_of_its_patch() -> None:
    network, x = vit(), torch.rand(2, 3, 35, 42)
    with torch.no_grad():
        logits, maps = network.attend(x)
        assert {tuple(level.shape) for level in maps} == {(2, 8, 10)}
        torch.testing.assert_close(logits, network.attend(x[:, :, :32, :40])[0])


def test_the_gates_equal_their_formulas() -> None:
    torch.manual_seed(3)
    channel, spatial = ChannelGate(6).double().eval(), SpatialGate().double().eval()
    spatial.score[1].running_mean.fill_(0.3)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in (channel.perceptron[0], channel.perceptron[2]))
    for b in range(2):
        summed = torch.zeros(6, dtype=torch.float64)
        for pooled in (x[b].flatten(1).mean(1), x[b].flatten(1).max(1).values):
            summed += w2 @ (w1 @ pooled + b1).clamp_min(0) + b2
        torch.testing.assert_close(channel(x)[b].flatten(), 1 / (1 + (-summed).exp()))
        padded = nn.functional.pad(torch.stack([x[b].max(0).values, x[b].mean(0)]), (3, 3, 3, 3))
        for i, j in ((0, 0), (4, 3), (2, 1)):
            score = (padded[:, i : i + 7, j : j + 7] * spatial.score[0].weight[0]).sum()
            score = (score - 0.3) / math.sqrt(1 + 1e-3)
            torch.testing.assert_close(spatial(x)[b, 0, i, j], 1 / (1 + (-score).exp()))


def test_what_a_gate_shuts_does_not_flow_on() -> None:
    torch.manual_seed(0)
    network = models.build("vgg_cbam", classes=7, width=0.0625).eval()
    with torch.no_grad():
        network.gates[2].spatial.score[1].bias.fill_(-1e9)
        one, other = network.features(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "kind", "peak"), [("vit", torch.optim.AdamW, 1e-3), ("vgg_cbam", torch.optim.SGD, 0.1)])
def test_the_registry_says_what_a_family_is_trained_with(name: str, kind: type, peak: float) -> None:
    request = TrainRequest(model=name, out=Path("w.safetensors"), epochs=10, weight_decay=0.02)
    optimiser = optimiser_of(request, models.build(name, width=0.03125))
    assert type(optimiser) is kind
    assert optimiser.param_groups[0]["weight_decay"] == 0.02
    assert learning_rate(request, 2.0) == pytest.approx(peak)
    assert learning_rate(replace(request, lr=0.5), 2.0) == pytest.approx(0.5)
