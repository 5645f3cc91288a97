"""The oracles: a sweep whose answer is known, and the changes that must not change it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Scaled, TwoClassLinear, images
from torch import Tensor, nn

import robustatt
from robustatt.data import TensorDataset
from robustatt.errors import InputError, RobustattError, RunInterrupted

ATTACKS = ["fgsm", "pgd"]


def exact_accuracy(model: TwoClassLinear, batch: Tensor, label: Tensor) -> list[float]:
    """For each eps 0..16 the share of images whose smallest L-infinity change is larger than eps: a count."""
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    score = (batch.double() - 0.5).flatten(1) @ (weight[1] - weight[0]) + bias[1] - bias[0]
    margin = torch.where(label == 1, score, -score)
    radius = margin / (weight[1] - weight[0]).abs().sum()
    return [float((radius > eps / 255).double().mean()) for eps in range(17)]


def linear_case(count: int = 300) -> tuple[TwoClassLinear, Tensor, Tensor]:
    model, batch = TwoClassLinear(), images(count)
    with torch.no_grad():
        label = model(batch).argmax(1)
    label[:20] = 1 - label[:20]
    return model, batch, label


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("independent", [False, True])
def test_a_linear_classifier_is_answered_exactly(attack: str, independent: bool) -> None:
    model, batch, label = linear_case()
    expected = exact_accuracy(model, batch, label)
    assert 0 < expected[8] < expected[1] < 1, "the case must tell radii apart"
    result = robustatt.sweep(model, (batch, label), attacks=[attack], eps="1..16", independent=independent)
    curve = result.curve(attack)
    assert curve["accuracy"].tolist() == expected
    assert curve["worst_case_accuracy"].tolist() == expected
    assert curve["n"].tolist() == [300] * 17
    assert result.health == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_scaling_two_logits_changes_no_number(attack: str) -> None:
    model, batch, label = linear_case(100)
    plain, scaled = (
        robustatt.sweep(m, (batch, label), attacks=[attack], eps="1..8").records for m in (model, Scaled(model, 200.0))
    )
    assert plain["adv_pred"].tolist() == scaled["adv_pred"].tolist()


def test_a_saturated_model_looks_no_more_robust(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    """With more classes the scale weighs the others differently, so single rows may move; the stable loss still has its
    gradient, where plain cross-entropy loses it and overstates robustness."""
    plain, scaled = (robustatt.sweep(m, labelled, eps="40") for m in (net, Scaled(net, 1000.0)))
    gap = scaled.curve("fgsm")["accuracy"].iloc[1] - plain.curve("fgsm")["accuracy"].iloc[1]
    assert abs(gap) <= 3 / 60
    assert not scaled.records["zero_grad"].any()
    saturating = robustatt.attack.recipe_files.parse({"name": "fgsm", "algorithm": "fgsm", "loss": "ce"}, "test")
    flat = robustatt.sweep(Scaled(net, 1000.0), labelled, attacks=[saturating], eps="40")
    assert flat.records["zero_grad"].mean() > 0.2
    assert flat.curve("fgsm")["accuracy"].iloc[1] > scaled.curve("fgsm")["accuracy"].iloc[1] + 0.1


@pytest.mark.parametrize("attack", ATTACKS)
def test_batch_size_changes_no_prediction(net: nn.Module, labelled: tuple[Tensor, Tensor], attack: str) -> None:
    big, small = (robustatt.sweep(net, labelled, attacks=[attack], eps="1..6", batch_size=size).records for size in (128, 13))
    assert big["adv_pred"].tolist() == small["adv_pred"].tolist()
    assert np.allclose(big["adv_margin"], small["adv_margin"], atol=1e-3)


def test_order_of_examples_changes_no_prediction(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    batch, label = labelled
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(3))
    plain = robustatt.sweep(net, (batch, label)).records
    mixed = robustatt.sweep(net, (batch[order], label[order])).records
    for eps, rows in plain.groupby("eps"):
        others = mixed[mixed["eps"] == eps]
        assert rows["adv_pred"].to_numpy()[order].tolist() == others["adv_pred"].tolist()


def test_random_starts_belong_to_the_example(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    whole = robustatt.sweep(net, labelled, attacks=["pgd"], eps="2,4").records
    part = robustatt.sweep(net, labelled, attacks=["pgd"], eps="2,4", n=17).records
    assert whole[whole["index"] < 17]["adv_pred"].tolist() == part["adv_pred"].tolist()


def test_the_callers_model_is_left_as_it_was(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    net.train()
    net.features[0].weight.requires_grad_(False)
    called: list[int] = []
    handle = net.head.register_forward_hook(lambda *_: called.append(1))
    flags = [(part.training, [p.requires_grad for p in part.parameters(recurse=False)]) for part in net.modules()]
    state = copy.deepcopy(net.state_dict())
    random = torch.random.get_rng_state()
    robustatt.sweep(net, labelled, attacks=ATTACKS, eps="2,4")
    with pytest.raises(InputError):
        robustatt.sweep(net, labelled, attacks=["no-such-attack"])
    with pytest.raises(RobustattError):
        robustatt.sweep(nn.Sequential(net, NanFor(3)), labelled, eps="2")
    assert flags == [(part.training, [p.requires_grad for p in part.parameters(recurse=False)]) for part in net.modules()]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
    assert len(net.head._forward_hooks) == 1
    handle.remove()


class NanFor(nn.Module):
    """Turns the logits of one class's images into NaN."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, logits: Tensor) -> Tensor:
        return torch.where((logits.argmax(1) == self.which)[:, None], torch.nan, logits)


class Constant(nn.Module):
    """Returns whatever it is given, for images."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, image: Tensor) -> object:
        return self.answer(image) if callable(self.answer) else self.answer


def test_nan_logits_stop_the_run_with_the_index(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    batch, _label = labelled
    with torch.no_grad():
        predicted = net(batch).argmax(1)
    which = int(predicted[3])
    first = int((predicted == which).nonzero()[0])
    with pytest.raises(RobustattError, match=rf"NaN or infinite logits for example {first}\b") as caught:
        robustatt.sweep(nn.Sequential(net, NanFor(which)), labelled)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x,
        lambda x: x.flatten(1)[:, :1],
        lambda x: (x.flatten(1), x.flatten(1)[:, :3]),
        lambda x: x.flatten(1)[:1],
        lambda x: x @ x[:, :, :2],
    ],
)
def test_wrong_outputs_are_said(answer: object, labelled: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="model 'model'"):
        robustatt.sweep(Constant(answer), labelled)


def test_probabilities_are_said(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    found = robustatt.sweep(nn.Sequential(net, nn.Softmax(1)), labelled, eps="2").health
    assert [(warning.code, warning.model) for warning in found] == [("probabilities", "model")]
    found = robustatt.sweep(nn.Sequential(net, nn.LogSoftmax(1)), labelled, eps="2").health
    assert [warning.code for warning in found] == ["log-probabilities"]


class NoGradient(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.detach()


def test_a_detached_gradient_is_said(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    result = robustatt.sweep(nn.Sequential(NoGradient(), net), labelled, attacks=ATTACKS, eps="2,4")
    assert {(warning.code, warning.attack) for warning in result.health} == {
        ("zero-gradient", "fgsm"),
        ("zero-gradient", "pgd"),
    }
    assert result.records[result.records["attacked"]]["zero_grad"].all()


def test_search_and_independent_agree(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    search, afresh = (robustatt.sweep(net, labelled, attacks=["pgd"], eps="2..32:2", n=30, independent=i) for i in (False, True))
    a, b = search.curve("pgd"), afresh.curve("pgd")
    assert (np.abs(a["accuracy"] - b["accuracy"]) <= 1.01 / 30).all(), "at most one of 30 may differ"
    assert afresh.records["attacked"].sum() > 2 * search.records["attacked"].sum()
    cost = [r.summary["provenance"]["gradients"] for r in (search, afresh)]
    assert cost[0] < cost[1] / 1.5


def test_every_row_is_backed_by_an_image_inside_its_radius(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    records = robustatt.sweep(net, labelled, attacks=ATTACKS, eps="2..12:2").records
    radius = records["eps"].map(lambda text: int(text.split("/")[0]) / 255)
    assert (records["distance"] <= radius + 1e-6).all()
    clean = records[records["eps"] == "0/255"]
    assert (clean["adv_pred"] == clean["clean_pred"]).all()
    assert not clean["attacked"].any()
    assert (np.sign(records["adv_margin"]) == np.where(records["adv_pred"] == records["label"], 1, -1)).all()
    pgd = records[records["attack"] == "pgd"]
    per_example = pgd.sort_values("index", kind="stable").groupby("index")["adv_pred"].apply(list)
    labels = pgd.drop_duplicates("index").set_index("index")["label"]
    for index, predictions in per_example.items():
        broken = [p != labels[index] for p in predictions]
        assert broken == sorted(broken), "what is broken at eps is broken at every larger radius"


def test_fgsm_costs_one_gradient_for_the_grid(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    origin = robustatt.sweep(net, labelled, eps="1..16").summary["provenance"]
    assert origin["gradients"] == 60
    assert origin["forwards"] == 60 * 17


def test_l2_radius(linear: TwoClassLinear) -> None:
    recipe = robustatt.attack.recipe_files.parse({"name": "pgd", "algorithm": "pgd", "norm": "l2"}, "test")
    batch = images(80)
    with torch.no_grad():
        label = linear(batch).argmax(1)
    weight = (linear.weight[1] - linear.weight[0]).detach().double()
    score = (batch.double() - 0.5).flatten(1) @ weight + (linear.bias[1] - linear.bias[0]).double()
    radius = score.abs() / weight.norm()
    grid = [0.02, 0.05, 0.1, 0.2]
    accuracy = robustatt.sweep(linear, (batch, label), attacks=[recipe], eps=grid).curve("pgd")["accuracy"]
    assert accuracy.tolist()[1:] == [float((radius > eps).double().mean()) for eps in grid]


def test_an_interrupted_sweep_goes_on(
    tmp_path: Path, net: nn.Module, labelled: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustatt.plan.cells.CELL_EXAMPLES", 16)
    whole, part = tmp_path / "whole", tmp_path / "part"
    expected = robustatt.sweep(net, labelled, attacks=ATTACKS, eps="2,8", out=whole)
    robustatt.sweep(net, labelled, attacks=ATTACKS, eps="2,8", out=part)
    files = sorted((part / "records").iterdir())
    assert len(files) == 8
    files[0].unlink()
    files[3].write_bytes(files[3].read_bytes()[:-1])
    before = {path: path.stat().st_mtime_ns for path in files[4:]}
    again = robustatt.sweep(net, labelled, attacks=ATTACKS, eps="2,8", out=part)
    assert again.records.equals(expected.records)
    assert before == {path: path.stat().st_mtime_ns for path in files[4:]}, "what was there was not computed again"
    for path in (whole / "records").iterdir():
        assert path.read_bytes() == (part / "records" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": "300"}, "pixel range"),
        ({"n": 0}, "at least 1"),
        ({"n": 61}, "has 60 examples"),
        ({"attacks": ["fgms"]}, "did you mean 'fgsm'"),
        ({"device": "warp"}, "on this machine"),
        ({"batch_size": 0}, "batch-size"),
        ({"model": "vgg_at3"}, "did you mean"),
        ({"data": (torch.full((2, 3, 8, 8), 2.0), torch.zeros(2, dtype=torch.int64))}, r"\[0, 1\]"),
    ],
)
def test_wrong_input_is_one_line(
    net: nn.Module, labelled: tuple[Tensor, Tensor], change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        robustatt.sweep(**({"model": net, "data": labelled, "out": tmp_path / "out"} | change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "nothing may be written"


def test_labels_beyond_the_models_classes(net: nn.Module, labelled: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="has 5 classes"):
        robustatt.sweep(net, (labelled[0], labelled[1] + 3))


def test_several_models_and_uint8_images(net: nn.Module) -> None:
    data = TensorDataset((images(20, 12) * 255).to(torch.uint8), torch.arange(20) % 5)
    result = robustatt.sweep({"a": net, "b": net}, data, eps="4")
    assert result.curve("fgsm", "a").equals(result.curve("fgsm", "b"))
    with pytest.raises(InputError, match="say which"):
        result.curve("fgsm")


MISTAKEN: list[tuple[dict[str, Any], str]] = [
    ({"eps": 8}, 'write text, such as "8"'),
    ({"eps": [8, 16]}, 'write text, such as "8"'),
    ({"model": lambda image: image}, "model is a function"),
    ({"data": torch.utils.data.TensorDataset(torch.zeros(2, 3, 8, 8))}, "TensorDataset is not supported"),
    ({"data": (torch.zeros(0, 3, 6, 6), torch.zeros(0, dtype=torch.int64))}, "nothing to evaluate"),
    ({"data": (torch.full((2, 3, 6, 6), torch.nan), torch.zeros(2, dtype=torch.int64))}, "NaN"),
]


@pytest.mark.parametrize(("wrong", "said"), MISTAKEN)
def test_a_mistaken_call_is_told_what_would_be_right(wrong: dict[str, Any], said: str, linear: TwoClassLinear) -> None:
    right: dict[str, Any] = {"model": linear, "data": (images(4), torch.zeros(4, dtype=torch.int64)), "eps": "8"}
    with pytest.raises(InputError, match=said):
        robustatt.sweep(**right | wrong)


def test_one_radius_as_a_number_and_a_result_that_says_what_it_is(linear: TwoClassLinear) -> None:
    result = robustatt.sweep(linear, (images(4), torch.zeros(4, dtype=torch.int64)), eps=8 / 255)
    assert result.curve("fgsm")["eps"].tolist() == ["0/255", "8/255"]
    assert "model under fgsm, 4 images" in repr(result)


def test_nothing_is_said_of_a_folder_that_is_gone(linear: TwoClassLinear) -> None:
    broken = nn.Sequential(linear, nn.Threshold(1e9, torch.nan))
    with pytest.raises(RunInterrupted, match="NaN or infinite") as stopped:
        robustatt.sweep(broken, (images(4), torch.zeros(4, dtype=torch.int64)), eps="8")
    assert "on disk" not in str(stopped.value)
