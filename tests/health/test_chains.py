"""Chains of attacks say which part broke what, and a black-box part that finds more than the gradient parts is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import layers, nets
from torch import Tensor, nn

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.native_recipes import AutoAttackRecipe
from robustatt.errors import InputError
from robustatt.health.records import check_records
from robustatt.results.aggregate import summarise
from robustatt.results.chains import part_tables, parts_of

COUNT = 32
DATA = nets.held_out(COUNT)
EPS = "16,32"


def chain(name: str = "aa") -> AutoAttackRecipe:
    recipe = recipes.parse({"name": name, "algorithm": "autoattack", "steps": 5, "targets": 1, "queries": 100}, "test")
    assert isinstance(recipe, AutoAttackRecipe)
    return recipe


def staircase() -> nn.Module:
    """A model whose gradients are masked."""
    return layers.Staircase().wrap(nets.trained(nets.convolutional))


class MaskedWhereBright(nn.Module):
    """Gradients are masked for bright images alone: the first part breaks dark ones, the black-box part bright ones."""

    def __init__(self, net: nn.Module, threshold: float) -> None:
        super().__init__()
        self.net, self.masked, self.threshold = net, layers.Staircase().wrap(net), threshold

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > self.threshold
        return torch.where(bright[:, None], self.masked(x), self.net(x))


@pytest.fixture(scope="module")
def masked() -> robustatt.Result:
    return robustatt.sweep(staircase(), DATA, attacks=[chain()], eps=EPS)


def test_each_example_is_credited_to_the_first_part_that_breaks_it_alone() -> None:
    """The parts are run one by one on all examples: randomness belongs to the example, so the chain does the same."""
    few = nets.held_out(16)
    model = MaskedWhereBright(nets.trained(nets.convolutional), float((few[0] / 255).mean((1, 2, 3)).median()))
    whole = robustatt.sweep(model, few, attacks=[chain()], eps=EPS, independent=True).records
    expected = pd.Series("", index=pd.MultiIndex.from_frame(whole[["eps", "index"]]))
    for name, part in parts_of(chain()).items():
        alone = robustatt.sweep(model, few, attacks=[part], eps=EPS, independent=True).records
        assert "broken_by" not in alone.columns
        broken = alone[(alone.adv_pred != alone.label) & (alone.clean_pred == alone.label)]
        keys = pd.MultiIndex.from_frame(broken[["eps", "index"]])
        expected[expected.index.isin(keys) & (expected == "")] = name
    assert whole.broken_by.tolist() == expected.tolist()
    assert expected.nunique() > 2


def test_the_search_credits_exactly_what_is_broken(masked: robustatt.Result) -> None:
    records = masked.records
    assert "broken_by" in records.columns
    taken = (records.adv_pred != records.label) & (records.clean_pred == records.label)
    assert ((records.broken_by != "") == taken).all()
    assert set(records.broken_by) <= {"", *parts_of(chain())}


def test_counts_reach_the_summary_and_the_result(masked: robustatt.Result) -> None:
    counts = masked.parts("aa")
    assert counts.columns.tolist() == ["eps", "apgd-ce", "apgd-t", "fab-t", "square"]
    records = masked.records
    for row in counts.itertuples(index=False):
        there = records[records.eps == row.eps].broken_by
        assert tuple(row[1:]) == tuple(int((there == name).sum()) for name in counts.columns[1:])
    by_eps = {point["eps"]: point for point in masked.summary["curves"][0]["points"]}
    assert sum(by_eps["0/255"]["broken_by"].values()) == 0
    right = round(by_eps["0/255"]["accuracy"] * COUNT)
    for point in by_eps.values():
        assert sum(point["broken_by"].values()) == right - round(point["accuracy"] * COUNT)


def test_a_single_attack_has_no_parts() -> None:
    result = robustatt.sweep(nets.trained(nets.linear, 400), DATA, attacks=["fgsm"], eps="8")
    assert "broken_by" not in result.records.columns
    assert "broken_by" not in result.summary["curves"][0]["points"][0]
    with pytest.raises(InputError, match="'fgsm' is not a chain"):
        result.parts("fgsm")


def test_a_chain_survives_resume_beside_another_attack(tmp_path: Path) -> None:
    """Rows of the other attack have an empty text, and the second run reads what the first wrote."""
    model = nets.trained(nets.convolutional)
    first = robustatt.sweep(model, DATA, attacks=[chain(), "fgsm"], eps=EPS, out=tmp_path)
    again = robustatt.sweep(model, DATA, attacks=[chain(), "fgsm"], eps=EPS, out=tmp_path)
    pd.testing.assert_frame_equal(first.records, again.records)
    assert set(first.records[first.records.attack == "fgsm"].broken_by) == {""}
    assert "apgd-ce" in set(first.records.broken_by)
    page = first.report(tmp_path / "page").read_text()
    assert "What the parts of aa did to model" in page


def test_records_without_the_column_are_still_read(masked: robustatt.Result) -> None:
    old = masked.records.drop(columns="broken_by")
    summary = summarise(old, masked.summary["plan"], {}, [])
    assert part_tables(summary) == []
    assert "black-box-stronger" not in {warning.code for warning in check_records(old, [chain()])}
    assert summary.curves[0].points[1].accuracy == masked.typed_summary.curves[0].points[1].accuracy


def test_what_only_square_breaks_is_told(masked: robustatt.Result) -> None:
    (warning,) = [entry for entry in masked.health if entry.code == "black-box-stronger"]
    assert warning.attack == "aa"
    assert warning.evidence["missed"] == masked.parts("aa").square.max()
    assert "square, which sees no gradient" in warning.message


@pytest.mark.parametrize(("taken", "told"), [(4, False), (5, True)])
def test_the_threshold_is_that_of_separate_attacks(masked: robustatt.Result, taken: int, told: bool) -> None:
    """A twentieth of the images that are right when clean, and five of them."""
    records = masked.records.copy()
    records["adv_pred"] = records["label"]
    records["clean_pred"] = records["label"]
    records["broken_by"] = ""
    largest = records.index[records.eps == "32/255"][:10]
    records.loc[largest, "adv_pred"] = (records.loc[largest, "label"] + 1) % 10
    records.loc[largest, "broken_by"] = np.array(["square"] * taken + ["apgd-ce"] * (10 - taken), dtype=object)
    assert ("black-box-stronger" in {warning.code for warning in check_records(records, [chain()])}) == told
