"""Attacks on where a network looks: the label stays while the maps move, or goes while they stay."""

from __future__ import annotations

import pytest
import torch

import robustatt
from robustatt.attack import recipe_files
from robustatt.attack.attention import divergence
from robustatt.errors import InputError
from robustatt.evaluate.drift import AttentionMaps, drift
from robustatt.models import load
from robustatt.report.text import strongest_attack


@pytest.fixture(scope="module")
def found() -> robustatt.Result:
    """The digits network with attention at all levels under both, PGD and noise, at two radii."""
    short = [recipe_files.load(name).model_copy(update={"steps": 12}) for name in ("attention", "attention-keep", "pgd")]
    digits = robustatt.data.load("digits").tensors(range(24))
    return robustatt.sweep({"vgg_att3": load("vgg_att3")}, digits, attacks=[*short, "sign-noise"], eps="8,24")


def mean_drift(result: robustatt.Result, attack: str, eps: str) -> float:
    records = result.records
    rows = records[(records["attack"] == attack) & (records["eps"] == eps) & (records["clean_pred"] == records["label"])]
    return float(rows[[f"drift_js_l{level}" for level in (1, 2, 3)]].to_numpy().mean())


def test_the_divergence_is_the_drift_that_records_have() -> None:
    first, second = torch.rand(2, 5, 8, 8).unbind()
    first, second = (level / level.sum(dim=(1, 2), keepdim=True) for level in (first, second))
    expected = drift(AttentionMaps.of(first, (32, 32)), AttentionMaps.of(second, (32, 32)))["js"]
    torch.testing.assert_close(divergence(first, second), expected)
    moved = second.clone().requires_grad_()
    divergence(first, moved).sum().backward()
    assert moved.grad is not None
    assert bool(moved.grad.isfinite().all())
    zero = torch.zeros_like(second).index_fill(1, torch.tensor([0]), 1 / 8).requires_grad_()
    divergence(first, zero).sum().backward()
    assert zero.grad is not None
    assert bool(zero.grad.isfinite().all())


def test_attention_is_moved_while_no_prediction_changes(found: robustatt.Result) -> None:
    rows = found.records.query("attack == 'attention'")
    assert (rows["adv_pred"] == rows["clean_pred"]).all()
    assert mean_drift(found, "attention", "24/255") > 1.5 * mean_drift(found, "pgd", "24/255")
    assert mean_drift(found, "attention", "24/255") > 10 * mean_drift(found, "sign-noise", "24/255")
    assert mean_drift(found, "attention", "8/255") < mean_drift(found, "attention", "24/255")


def test_a_network_is_fooled_while_it_looks_where_it_did(found: robustatt.Result) -> None:
    accuracy = (
        found.records.query("eps == '24/255'").groupby("attack").apply(lambda rows: (rows["adv_pred"] == rows["label"]).mean())
    )
    assert accuracy["attention-keep"] <= accuracy["pgd"] + 0.1
    assert mean_drift(found, "attention-keep", "24/255") < mean_drift(found, "attention", "24/255") / 2


def test_what_moves_attention_is_no_adversary(found: robustatt.Result) -> None:
    assert not found.typed_summary.is_adversary("attention")
    assert found.typed_summary.is_adversary("attention-keep")
    assert found.typed_summary.at_full_strength("attention-keep")
    assert strongest_attack(found.typed_summary) in ("pgd", "attention-keep")


def test_only_the_levels_asked_for_are_moved() -> None:
    network, digits = load("vgg_att3"), robustatt.data.load("digits").tensors(range(8))
    moved = {}
    for level in ("l1", "l3"):
        recipe = recipe_files.load("attention").model_copy(update={"steps": 8, "levels": level})
        records = robustatt.sweep(network, digits, attacks=[recipe], eps="24").records.query("eps == '24/255'")
        moved[level] = {name: float(records[f"drift_js_{name}"].mean()) for name in ("l1", "l3")}
    assert moved["l1"]["l1"] > moved["l3"]["l1"]
    assert moved["l3"]["l3"] > moved["l1"]["l3"]


def test_a_network_without_attention_or_without_that_level_is_one_line() -> None:
    digits = robustatt.data.load("digits").tensors(range(4))
    with pytest.raises(InputError, match=r"^model 'plain': attack 'attention': .* no attention that is read"):
        robustatt.sweep({"mine": load("vgg_att2"), "plain": load("vgg")}, digits, attacks=["attention"], eps="8")
    recipe = recipe_files.load("attention").model_copy(update={"levels": "block*"})
    with pytest.raises(InputError, match="fits no level of the model: its levels are l1, l2, l3"):
        robustatt.sweep(load("vgg_att3"), digits, attacks=[recipe], eps="8")


def test_batch_size_and_the_order_of_examples_change_nothing() -> None:
    network, (images, labels) = load("vgg_att2"), robustatt.data.load("digits").tensors(range(6))
    recipes = [recipe_files.load(name).model_copy(update={"steps": 5}) for name in ("attention", "attention-keep")]
    whole, small = (
        robustatt.sweep(network, (images, labels), attacks=recipes, eps="8,16", batch_size=size).records for size in (6, 4)
    )
    assert (whole["adv_pred"] == small["adv_pred"]).all()
    for level in ("l2", "l3"):
        torch.testing.assert_close(
            torch.tensor(whole[f"drift_js_{level}"]), torch.tensor(small[f"drift_js_{level}"]), atol=1e-3, rtol=0.1
        )
