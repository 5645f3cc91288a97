"""Grad-CAM and input gradients on networks whose maps have a closed form, and on the network family."""

from __future__ import annotations

import pytest
import torch
from tiny_models import SmallNet, TwoClassLinear, images, small_net
from torch import Tensor, nn

import robustatt
from robustatt import models
from robustatt.errors import InputError
from robustatt.evaluate.drift import AttentionMaps, drift
from robustatt.evaluate.gradcam import Layer, as_shares, grad_cam, input_gradient, last_spatial_layer, logits_and_cam
from robustatt.results.columns import DRIFT_METRICS


class Pooled(nn.Module):
    """A convolution, ReLU, global average pooling and a linear layer: Grad-CAM is the class activation map."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.relu = nn.ReLU(inplace=inplace)
        self.linear = nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.relu(self.conv(image)).mean(dim=(2, 3)))


def pooled() -> Pooled:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Pooled().eval()


def class_activation(net: Pooled, batch: Tensor, classes: Tensor) -> Tensor:
    features = net.relu(net.conv(batch))
    return torch.einsum("bchw,bc->bhw", features, net.linear.weight[classes]).relu()


@pytest.mark.parametrize("wanted", [None, torch.tensor([3, 2, 1, 0, 0, 1])])
def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(wanted: Tensor | None) -> None:
    net, batch = pooled(), images(6, 12)
    with torch.no_grad():
        classes = net(batch).argmax(1) if wanted is None else wanted
        expected = class_activation(net, batch, classes)
    maps = grad_cam(net, batch, wanted)
    assert maps.shape == (6, 6, 6)
    positive = expected.sum((1, 2)) > 0
    assert positive.any()
    shares = expected / expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(maps[positive], shares[positive])
    torch.testing.assert_close(maps[~positive], torch.full_like(maps[~positive], 1 / 36))


def test_nothing_in_favour_of_the_class_gives_a_uniform_map() -> None:
    net = pooled()
    with torch.no_grad():
        net.linear.weight.copy_(-net.linear.weight.abs())
    torch.testing.assert_close(grad_cam(net, images(3, 12)), torch.full((3, 6, 6), 1 / 36))


def test_logits_come_with_the_map_and_no_graph() -> None:
    net, batch = pooled(), images(4, 12)
    logits, maps = logits_and_cam(net, Layer("relu", 0), batch)
    with torch.no_grad():
        assert torch.equal(logits, net(batch))
    assert not logits.requires_grad
    assert not maps.requires_grad


def test_input_gradient_of_a_linear_model_is_its_weights() -> None:
    net, batch = TwoClassLinear(), images(5)
    target = torch.tensor([0, 1, 0, 1, 1])
    expected = net.weight.detach().reshape(2, 3, 8, 8).abs().amax(1)
    expected = expected / expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(input_gradient(net, batch, target), expected[target])
    with torch.no_grad():
        predicted = net(batch).argmax(1)
    torch.testing.assert_close(input_gradient(net, batch), expected[predicted])


def test_scaled_logits_give_the_same_map() -> None:
    batch = images(3, 12)
    small, large = pooled(), pooled()
    with torch.no_grad():
        for parameter in large.linear.parameters():
            parameter *= 1e-30
    torch.testing.assert_close(grad_cam(small, batch), grad_cam(large, batch))


@pytest.mark.parametrize("function", [grad_cam, input_gradient])
def test_the_model_is_as_it_was(function: object) -> None:
    net = small_net()
    net.train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    hooks = []
    net.features[3].register_forward_hook(lambda *_: hooks.append(1))
    random = torch.get_rng_state()
    batch = images(4, 12)
    function(net, batch)  # type: ignore[operator]
    assert net.training
    assert net.features[3].training
    assert not net.features[1].training
    assert not net.features[0].weight.requires_grad
    assert net.head.weight.requires_grad
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert net.features[0].weight.grad is None
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert sum(len(part._forward_hooks) for part in net.modules()) == 1
    assert hooks
    assert batch.grad is None
    assert not batch.requires_grad
    assert torch.is_grad_enabled()


def test_what_fails_leaves_the_model_as_it_was() -> None:
    net = pooled().train()
    with pytest.raises(RuntimeError):
        grad_cam(net, torch.rand(2, 5, 12, 12))
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())
    assert torch.is_grad_enabled()


def test_maps_do_not_depend_on_the_batch() -> None:
    net, batch = small_net(), images(6, 12)
    together = grad_cam(net, batch)
    torch.testing.assert_close(together, torch.cat([grad_cam(net, one[None]) for one in batch]))


@pytest.mark.parametrize(("name", "side"), [("vgg", 4), ("vgg_gap", 8), ("vgg_att3", 8), ("resnet164", 8), ("resnet164_att2", 8)])
def test_the_layer_of_the_network_family(name: str, side: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.build(name, width=0.1 if name.startswith("vgg") else 0.25)
    maps = grad_cam(net, images(2, 32))
    assert maps.shape == (2, side, side)
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


def test_a_small_map_is_better_than_none() -> None:
    assert grad_cam(pooled(), images(2, 4)).shape == (2, 2, 2)


class Tokens(nn.Module):
    """A small vision transformer's shape: patches become tokens, and no map comes after them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.mix(self.patches(image).flatten(2).transpose(1, 2)).mean(1))


class Opaque(SmallNet):
    """A network whose own code leaves autograd half way."""

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.from_numpy(self.features(image).detach().numpy()).flatten(1))


class Numeric(SmallNet):
    """A network whose own code works without a graph only."""

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.from_numpy(self.features(image).numpy()).flatten(1))


@pytest.mark.parametrize("net", [TwoClassLinear(), Tokens(), Opaque(), Numeric()])
def test_models_without_a_map_have_no_grad_cam(net: nn.Module) -> None:
    net.eval().requires_grad_(False)
    batch = images(2, 8)
    assert last_spatial_layer(net, batch) is None
    with pytest.raises(InputError, match="Grad-CAM needs a layer"):
        grad_cam(net, batch)


def test_a_module_called_twice_is_looked_at_the_second_time() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.open, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.relu(self.mix(self.relu(self.open(image)))).mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Twice().eval()
    batch = images(3)
    assert last_spatial_layer(net, batch) == Layer("relu", 1)
    with torch.no_grad():
        features = net.relu(net.mix(net.relu(net.open(batch))))
        expected = torch.einsum("bchw,bc->bhw", features, net.head.weight[net(batch).argmax(1)]).relu()
    torch.testing.assert_close(grad_cam(net, batch), as_shares(expected))


def test_shares_of_very_small_and_very_large_values() -> None:
    maps = torch.tensor([[[1e-40, 3e-40]], [[1e38, 3e38]], [[0.0, 0.0]], [[float("inf"), 1.0]]])
    torch.testing.assert_close(
        as_shares(maps),
        torch.tensor([[[0.25, 0.75]], [[0.25, 0.75]], [[0.5, 0.5]], [[0.5, 0.5]]]),
        atol=1e-4,
        rtol=1e-3,
    )


def test_a_baseline_is_recorded_with_the_drift_of_its_saliency() -> None:
    net, batch = small_net(), images(20, 12)
    with torch.no_grad():
        label = net(batch).argmax(1)
    records = robustatt.sweep(net, (batch, label), attacks=["fgsm"], eps="4,8", seed=0).records
    assert {name for name in records if name.startswith("drift_")} == {f"drift_{name}_gradcam" for name in DRIFT_METRICS}
    clean = records[records["eps"] == "0/255"]
    for name, measure in DRIFT_METRICS.items():
        assert (clean[f"drift_{name}_gradcam"] == measure.unmoved).all()
    leaf = batch.clone().requires_grad_()
    logits = net(leaf)
    right = logits.gather(1, label[:, None]).squeeze(1)
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    (gradient,) = torch.autograd.grad((others - right).sum(), leaf)
    attacked = (batch + 8 / 255 * gradient.sign()).clamp(0, 1)
    expected = drift(*(AttentionMaps.of(grad_cam(net, pixels), (12, 12)) for pixels in (batch, attacked)))
    rows = records[records["eps"] == "8/255"].sort_values("index")
    for name in ("js", "cosine", "shift", "entropy"):
        found = torch.tensor(rows[f"drift_{name}_gradcam"].to_numpy())
        torch.testing.assert_close(found, expected[name], atol=2e-3, rtol=1e-2)


def test_no_map_no_drift() -> None:
    net, batch = TwoClassLinear(), images(4)
    records = robustatt.sweep(net, (batch, torch.zeros(4, dtype=torch.int64)), eps="4").records
    assert not [name for name in records if name.startswith("drift_")]


def test_a_pass_that_does_not_reach_the_layer_gives_a_uniform_map() -> None:
    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            if bool((images > 2).any()):
                return torch.full((len(images), 2), torch.nan)
            logits: Tensor = self.head(self.conv(images).mean(dim=(2, 3)))
            return logits

    net, images = Detour().eval(), torch.rand(3, 3, 6, 5)
    layer = last_spatial_layer(net, images)
    assert layer is not None
    logits, maps = logits_and_cam(net, layer, images + 2)
    assert logits.isnan().all()
    assert torch.equal(maps, torch.full((3, 6, 5), 1 / 30))
