"""Weights of other projects are found by names and shapes, never in part and never by a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustatt.errors import InputError
from robustatt.models.external import load_outside

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class Wrapped(nn.Module):
    """Statistics of its own around a network: buffers that no file of the network has."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - self.mu)


def build() -> nn.Module:
    return Net()


def wrapped() -> nn.Module:
    return Wrapped()


def state(seed: int = 1) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
        net.bn.running_mean += 0.5
        return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def under(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(content: Any, tmp_path: Path, spec: str = "build") -> nn.Module:
    torch.save(content, tmp_path / "w.pt")
    return load_outside(f"{__name__}:{spec}", weights=tmp_path / "w.pt")


QUIET: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "DataParallel": lambda s: under("module.", s),
    "any prefix": lambda s: under("encoder_q.body.", s),
    "two prefixes": lambda s: under("_orig_mod.module.", s),
    "nested": lambda s: {"epoch": 3, "state_dict": under("module.", s), "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "any nest": lambda s: {"whatever": {"inner": s}, "acc": torch.tensor(9.0)},
    "average of weights only": lambda s: {"state_dict_ema": s},
    "twice the same": lambda s: {"teacher": s, "student": s},
    "without counters": lambda s: {name: tensor for name, tensor in s.items() if "num_batches" not in name},
    "half": lambda s: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in s.items()},
}
BESIDE: dict[str, tuple[Callable[[State], Any], str]] = {
    "a loss": (lambda s: {"state_dict": under("net.", s) | {"criterion.weight": torch.ones(5)}}, "left out: criterion.weight$"),
    "a normalisation": (lambda s: under("1.", s) | {"0.mean": torch.zeros(3)}, "left out: 0.mean; if they normalise the input"),
    "an attacker's copy": (
        lambda s: {"model": under("m.net.", s) | under("m.attacker.net.", s) | {"m.normalizer.std": torch.ones(3)}},
        "left out: m.normalizer.std; if",
    ),
}  # fmt: skip


def assert_loaded(network: nn.Module, expected: State, exact: bool = True) -> None:
    for name, tensor in network.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, expected[name], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-3)


@pytest.mark.parametrize("form", QUIET)
def test_usual_forms_are_loaded_whole_without_a_word(form: str, tmp_path: Path) -> None:
    assert_loaded(loaded(QUIET[form](state()), tmp_path), state(), exact=form != "half")


@pytest.mark.parametrize(("form", "said"), BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_network_is_left_out_and_said(form: Callable[[State], Any], said: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=said):
        network = loaded(form(state()), tmp_path)
    assert_loaded(network, state())


def test_a_network_around_what_was_saved_keeps_its_own_constants_and_says_so(tmp_path: Path) -> None:
    for content in (state(), under("net.", state())):
        with pytest.warns(UserWarning, match="not in the file, so the network's own values are used: mu"):
            network = loaded(content, tmp_path, "wrapped")
        assert_loaded(network.get_submodule("net"), state())
        assert float(network.get_buffer("mu").flatten()[0]) == 0.25


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two sets that fit": (lambda s: {"model": state(2), "model_ema": s}, "2 different sets of weights that fit: 'model', 'model_ema'"),
    "a head missing": (lambda s: {name: t for name, t in s.items() if "fc" not in name}, "tensor fc.weight is missing"),
    "statistics missing": (
        lambda s: {name: t for name, t in s.items() if name != "bn.running_var"}, "tensor bn.running_var is missing",
    ),
    "another head": (lambda s: s | {"fc.weight": torch.ones(7, 4)}, r"tensor fc.weight has shape \(7, 4\), expected \(5, 4\)"),
    "a layer too many": (lambda s: s | {"fc2.weight": torch.ones(2)}, "tensor fc2.weight is not part of this network"),
    "a layer too many, nested": (
        lambda s: {"net": under("module.", s | {"fc2.weight": torch.ones(2)})}, "tensor .*fc2.weight is not part of this network",
    ),
    "other names": (
        lambda s: {"stem.w": s["conv.weight"]},
        r"holds other names than this network has. In the file: stem.w \(4, 3, 3, 3\). Wanted: conv.weight \(4, 3, 3, 3\), .* and 5 more",
    ),
    "NaN": (lambda s: under("module.", s | {"fc.bias": torch.full((5,), torch.nan)}), "tensor fc.bias holds NaN"),
    "no tensors": (lambda _: {"epoch": 3, "nested": {"lr": 0.1}}, "holds no named tensors"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(form: Callable[[State], Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as error:
        loaded(form(state()), tmp_path)
    assert "\n" not in str(error.value)
