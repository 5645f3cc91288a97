"""The maps that a network hands out itself are checked: they are maps, of the logits they come with, or it is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import nets
from torch import Tensor, nn

import robustatt
from robustatt.errors import InputError
from robustatt.evaluate.classifier import frozen

CASES = int(os.environ.get("ROBUSTATT_FUZZ", "500"))
ModelOutput = Callable[[Tensor, Tensor], Any]


class Looking(nn.Module):
    """A network with a gate of its own: its maps are softmax shares of the mean pixel, changed by `alter`."""

    levels: Any = ("early", "late")

    def __init__(self, alter: ModelOutput = lambda logits, maps: (logits, maps), network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = nets.trained(nets.plain) if network is None else network
        self.alter = alter

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def attend(self, x: Tensor) -> Any:
        fine = (8 * x.mean(1)).flatten(1).softmax(1).view(len(x), *x.shape[2:])
        coarse = nn.functional.avg_pool2d(fine[:, None], 2)[:, 0] * 4
        return self.alter(self(x), [fine, coarse])


def drift_of(model: nn.Module) -> Any:
    result = robustatt.sweep(model, nets.held_out(12), attacks=["fgsm"], eps="8,16")
    return result, result.records.filter(like="drift_")


def test_maps_of_another_scale_give_the_drift_of_shares_and_it_is_said_once() -> None:
    result, expected = drift_of(Looking())
    assert "maps-normalised" not in {warning.code for warning in result.health}
    scaled, found = drift_of(Looking(lambda logits, maps: (logits, [7 * maps[0], maps[1]])))
    assert list(found) == list(expected)
    assert expected["drift_js_early"].abs().max() > 1e-3
    for name in expected:
        assert np.allclose(found[name], expected[name], atol=2e-5), name
    said = [warning.message for warning in scaled.health if warning.code == "maps-normalised"]
    assert len(said) == 1
    assert "maps of early do not sum to 1" in said[0]


def test_every_map_sums_to_one_also_where_the_first_images_did() -> None:
    """Scales of later batches, half precision and clipped rounding leave no trace."""
    for alter in (
        lambda logits, maps: (logits, [maps[0] * (1 if len(logits) == 4 else 7), maps[1]]),
        lambda logits, maps: (logits, [maps[0].half(), maps[1].bfloat16()]),
        lambda logits, maps: (logits, [maps[0] - 1e-7, maps[1]]),
    ):
        _, maps = robustatt.attention_maps(Looking(alter), nets.held_out(12)[0])
        for level in maps.values():
            assert torch.allclose(level.sum((1, 2)), torch.ones(12), atol=1e-6)


def test_a_pattern_chooses_among_the_levels_of_a_protocol() -> None:
    image = nets.held_out(6)[0]
    _, every = robustatt.attention_maps(Looking(), image)
    _, one = robustatt.attention_maps(Looking(), image, attention="la*")
    assert list(every) == ["early", "late"]
    assert list(one) == ["late"]
    assert torch.equal(one["late"], every["late"])
    broken = Looking(lambda logits, _: logits)
    with pytest.raises(InputError, match="no level or submodule is of that name"):
        robustatt.attention_maps(broken, image, attention="late")


def test_levels_need_no_names_and_a_channel_of_one_is_no_matter() -> None:
    model = Looking(lambda logits, maps: (logits, [level[:, None] for level in maps]))
    model.levels = None
    _, found = drift_of(model)
    _, expected = drift_of(Looking())
    assert list(found)[:1] == ["drift_js_l1"]
    assert np.array_equal(found["drift_js_l2"], expected["drift_js_late"])


def test_a_method_of_that_name_that_is_another_thing_is_left_alone() -> None:
    model = Looking(lambda logits, _: logits)
    model.levels = None
    _, found = drift_of(model)
    assert {name.rsplit("_", 1)[1] for name in found} == {"gradcam"}


WRONG: dict[str, tuple[ModelOutput, str]] = {
    "one map too few": (lambda z, m: (z, m[:1]), "its attend returned 1 maps for 2 levels (early, late)"),
    "no tuple": (lambda z, _: z, r"must return (logits, [map of each level]), not a tensor of shape"),
    "maps first": (lambda z, m: (m, z), "must return (logits, [map of each level])"),
    "no maps": (lambda z, _: (z, []), "no maps can be read"),
    "flat maps": (lambda z, m: (z, [m[0].flatten(1), m[1]]), "map of level early has shape"),
    "heads left in": (lambda z, m: (z, [m[0], m[1][:, None].expand(-1, 3, -1, -1)]), "map of level late has shape"),
    "summed over images": (lambda z, m: (z, [m[0].sum(0, keepdim=True), m[1]]), "map of level early has shape"),
    "NaN": (lambda z, m: (z, [m[0], m[1] * torch.nan]), "map of level late holds NaN or infinite values"),
    "signed": (lambda z, m: (z, [m[0] - 0.5, m[1]]), "map of level early holds negative values, down to -0.5"),
    "whole numbers": (lambda z, m: (z, [m[0].long(), m[1]]), "map of level early is a tensor of shape"),
    "lists": (lambda z, m: (z, [m[0].tolist(), m[1]]), "map of level early is a list of"),
    "other logits": (lambda z, m: (2 * z, m), "the logits of its attend differ from those of its forward"),
    "raises": (lambda z, m: (z, m[5]), "its attend(images) raised IndexError"),
}


@pytest.mark.parametrize(("alter", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_map_is_one_line_that_names_model_and_level(alter: ModelOutput, said: str) -> None:
    with pytest.raises(InputError) as error:
        robustatt.sweep({"mine": Looking(alter)}, nets.held_out(8), eps="8")
    assert str(error.value).startswith("model 'mine': ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [("a b", "c"), ("a", "a"), ("gradcam", "b"), "ab", 3])
def test_names_of_levels_must_be_names(names: Any) -> None:
    model = Looking()
    model.levels = names
    with pytest.raises(InputError, match="its levels must be different names"):
        robustatt.sweep({"mine": model}, nets.held_out(8), eps="8")


def test_a_random_network_may_have_other_logits_in_each_pass() -> None:
    model = Looking(network=nn.Sequential(Noisy(), nets.trained(nets.plain)))
    result = robustatt.sweep(model, nets.held_out(12), eps="8")
    assert "drift_js_early" in result.records
    assert "randomised" in {warning.code for warning in result.health}


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def strange() -> st.SearchStrategy[Any]:
    """Things that an attend may return."""
    sizes = st.integers(0, 9)
    values = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")])
    tensors = st.builds(
        lambda shape, value, dtype: torch.full(shape, 0.0 if value != value else max(min(value, 1.0), -1.0)).to(dtype) if dtype in (torch.int64, torch.bool)
        else torch.full(shape, value, dtype=torch.float64).to(dtype),
        st.lists(sizes, max_size=4).map(lambda rest: [4, *rest]) | st.lists(sizes, max_size=4),
        values, st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64, torch.bool]),
    )  # fmt: skip
    leaves = tensors | st.none() | st.integers() | st.text(max_size=3) | st.just(b"")
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=5)


@settings(max_examples=CASES, deadline=None)
@given(strange(), st.booleans(), st.sampled_from([("early", "late"), ("l1",), None, (), "x", 0]))
def test_whatever_attend_returns_is_maps_or_one_line(value: Any, with_logits: bool, levels: Any) -> None:
    model = Looking(lambda logits, _: (logits, value) if with_logits else value, network=LINEAR)
    model.levels = levels
    image = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    try:
        with frozen(model, "mine", torch.device("cpu"), image) as classifier:
            verdict = classifier.predict(image, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    except InputError as problem:
        assert "\n" not in str(problem)
        return
    assert len(verdict.maps) == len(classifier.levels)
    for level in verdict.maps:
        assert level.shape[0] == 4
        assert bool((level >= 0).all())
        assert torch.allclose(level.sum((1, 2)), torch.ones(4), atol=2e-3)


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
