"""Gates and attention without heads, found by themselves or by a pattern, and what is said where there is no map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustatt
from robustatt.attention import find
from robustatt.errors import InputError
from robustatt.evaluate.classifier import frozen

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Gate(nn.Module):
    """The spatial gate of CBAM; returns the gate, by a module or a function, or the gated features."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 1, 3, padding=1)
        self.squash = nn.Sigmoid()

    def gate(self, x: Tensor) -> Tensor:
        score = self.conv(torch.cat([x.amax(1, True), x.mean(1, True)], 1))
        return self.squash(score) if self.kind == "module" else torch.sigmoid(score)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x) if self.kind == "applied" else self.gate(x).expand_as(x)[:, :1]


class NonLocal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta, self.phi = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 1)

    def weights(self, x: Tensor) -> Tensor:
        return torch.softmax(self.theta(x).flatten(2).transpose(1, 2) @ self.phi(x).flatten(2), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.weights(x) @ x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)


class Net(nn.Module):
    """A convolution, a part that looks (twice, if asked to), and a classifier."""

    def __init__(self, looking: nn.Module, twice: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.spatial = looking
        self.head = nn.Linear(6, 5)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(1 + self.twice):
            x = x * self.spatial(x)
        return self.head(x.mean((2, 3)))


def net(looking: Callable[[], nn.Module], twice: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(looking(), twice).eval()


@pytest.mark.parametrize("kind", ["module", "function", "applied"])
@pytest.mark.parametrize("attention", ["auto", "spatial", "spat*"])
def test_a_gate_is_found_whatever_its_form(kind: str, attention: str) -> None:
    model = net(lambda: Gate(kind), twice=True)
    with torch.no_grad():
        features = model.stem(IMAGES)
        first = model.spatial.gate(features)
        second = model.spatial.gate(features * model.spatial(features))
        plain = model(IMAGES)
    logits, maps = robustatt.attention_maps(model, IMAGES, attention=attention)
    assert list(maps) == ["spatial", "spatial#2"]
    torch.testing.assert_close(logits, plain)
    for found, gate in zip(maps.values(), (first, second), strict=True):
        torch.testing.assert_close(found, gate[:, 0] / gate.sum((2, 3)).view(-1, 1, 1))


def test_a_non_local_block_is_the_mean_over_its_queries() -> None:
    model = net(NonLocal)
    with torch.no_grad():
        expected = model.spatial.weights(model.stem(IMAGES)).mean(1).view(-1, 8, 8)
    assert list(robustatt.attention_maps(model, IMAGES)[1]) == ["spatial"]
    torch.testing.assert_close(robustatt.attention_maps(model, IMAGES)[1]["spatial"], expected)


def test_no_hook_is_left_where_outputs_are_read() -> None:
    model = net(lambda: Gate("module"))
    model.spatial.squash = nn.Softplus()  # neither a sigmoid nor a softmax: only its output can be read
    reader = find(model, "mine", IMAGES, "spatial")
    with torch.no_grad():
        (level,) = reader.attend(model, IMAGES)[1]
        gate = model.spatial.gate(model.stem(IMAGES))
    torch.testing.assert_close(level, gate[:, 0] / gate.sum((2, 3)).view(-1, 1, 1))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_cbam_of_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=5, block_args={"attn_layer": "cbam"}).eval()
    _, maps = robustatt.attention_maps(model, torch.rand(2, 3, 64, 64), attention="layer[34].*.spatial")
    assert [(name, tuple(level.shape)) for name, level in maps.items()] == [
        ("layer3.0.se.spatial", (2, 4, 4)), ("layer3.1.se.spatial", (2, 4, 4)),
        ("layer4.0.se.spatial", (2, 2, 2)), ("layer4.1.se.spatial", (2, 2, 2)),
    ]  # fmt: skip


def test_squeeze_and_excitation_has_no_map_and_that_is_said() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("seresnet18", num_classes=5).eval()
    with pytest.raises(InputError, match=r"channel attention, as in SE and ECA, has no map\): name a submodule"):
        robustatt.attention_maps(model, torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("spacial", "no level or submodule is of that name; the nearest are spatial"),
        ("head", "no submodule of that name has a map, they return head (3, 5): values of 0 or more"),
        ("spatial.conv", "they return spatial.conv (3, 1, 8, 8) with negative values"),
    ],
)
def test_a_pattern_that_finds_no_map_is_one_line(pattern: str, said: str) -> None:
    model = net(lambda: Gate("module"))
    with torch.no_grad():
        model.spatial.conv.bias.fill_(-1)
    with pytest.raises(InputError) as caught:
        find(model, "mine", IMAGES, pattern)
    assert said in str(caught.value)
    assert str(caught.value).startswith("model 'mine': --attention ")


@pytest.mark.parametrize(("value", "said"), [(0.0, "is zero everywhere"), (torch.nan, "holds NaN or infinite values")])
def test_a_map_that_says_nothing_names_the_example(value: float, said: str) -> None:
    class Spoiled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, :1] == 0.5, value, x[:, :1].sigmoid())

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spatial = Spoiled()
            self.head = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.spatial(x)
            return self.head(x.mean((2, 3)))

    spoiled = IMAGES.clone()
    spoiled[1] = 0.5
    expected = pytest.raises(InputError, match=rf"model 'mine': its map of level spatial {said}.*\(example 41\)")
    with frozen(Looking(), "mine", torch.device("cpu"), IMAGES, attention="spatial") as classifier, expected:
        classifier.predict(spoiled, torch.zeros(3, dtype=torch.long), torch.tensor([40, 41, 42]))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*deprecated:FutureWarning")
def test_programs_that_cannot_be_listened_to_are_refused_with_a_way_out() -> None:
    model = net(lambda: Gate("applied"))
    script = torch.jit.trace(model, IMAGES)
    assert "TorchScript" in find(script, "mine", IMAGES).reason
    with pytest.raises(InputError, match=r"--attention 'spatial' cannot be read: a TorchScript program takes no hooks"):
        find(script, "mine", IMAGES, "spatial")
    assert "compiled module cannot be listened to" in find(torch.compile(model), "mine", IMAGES).reason


def test_none_reads_nothing_and_wrappers_do_not_change_names() -> None:
    from robustatt.models.wrappers import Normalised

    model = Normalised(net(lambda: Gate("module")), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).eval()
    assert find(model, "m", IMAGES).levels == find(model, "m", IMAGES, "spatial").levels == ("spatial",)
    assert find(model, "m", IMAGES, "none").levels == ()
    with frozen(model, "m", torch.device("cpu"), IMAGES, attention="none") as classifier:
        assert classifier.levels == ("gradcam",)
