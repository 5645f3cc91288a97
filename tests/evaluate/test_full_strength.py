"""Drift at full strength: every attack to its last step at every radius, on a sample, apart from accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from tiny_models import Linear, linear_data
from torch import Tensor

import robustatt
from robustatt.attack import recipe_files
from robustatt.attack.recipe import Recipe
from robustatt.engine.evidence import read_folder
from robustatt.errors import InputError
from robustatt.plan.drift_sample import measured_attacks, sample_size
from robustatt.results.records import Store

EPS = {"1/255": 1 / 255, "4/255": 4 / 255, "12/255": 12 / 255}
SIZE = 6


def brightness(image: Tensor) -> Tensor:
    """What the maps are before they are divided by their sum."""
    return (20 * image.mean(dim=1)).exp()


class Looking(Linear):
    """A linear model that looks where the image is bright."""

    levels = ("brightness",)

    def attend(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        bright = brightness(image)
        return self(image), [bright / bright.sum(dim=(1, 2), keepdim=True)]


@pytest.fixture(scope="module")
def model() -> Looking:
    return Looking(size=SIZE).eval()


@pytest.fixture(scope="module")
def data(model: Looking) -> tuple[Tensor, Tensor]:
    return linear_data(model, 40, SIZE)


@pytest.fixture(scope="module")
def folder(model: Looking, data: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drift") / "out"
    robustatt.sweep(model, data, ["fgsm", "pgd"], eps=list(EPS.values()), out=out, drift_n=18)
    return out


def drift_records(folder: Path) -> pd.DataFrame:
    bound = read_folder(folder).bound
    return Store(folder / "records", read_only=True).read([cell.key for cell in bound.cells("drift")])


def test_the_drift_is_that_of_the_far_corner_of_the_ball(model: Looking, data: tuple[Tensor, Tensor], folder: Path) -> None:
    image, label = data
    toward = (model.weight[1 - label] - model.weight[label]).detach().view(image.shape)
    rows = drift_records(folder)
    pgd = rows[(rows["attack"] == "pgd") & rows["attacked"]]
    assert len(pgd) == len(EPS) * (pgd["eps"] == "1/255").sum()
    for text, eps in EPS.items():
        here = pgd[pgd["eps"] == text].sort_values("index")
        index = torch.tensor(here["index"].tolist())
        corner = image[index] + eps * toward[index].sign()
        clean, moved = (brightness(x.double()).flatten(1).numpy() for x in (image[index], corner))  # scipy divides by the sums
        expected = jensenshannon(clean, moved, axis=1, base=2) ** 2
        np.testing.assert_allclose(here["drift_js_brightness"], expected, rtol=2e-3, atol=2e-6)
        np.testing.assert_allclose(here["distance"], eps, rtol=1e-5)


def test_accuracy_is_the_same_records_with_and_without(
    model: Looking, data: tuple[Tensor, Tensor], folder: Path, tmp_path: Path
) -> None:
    robustatt.sweep(model, data, ["fgsm", "pgd"], eps=list(EPS.values()), out=tmp_path, drift_n=0)
    mine, theirs = ({path.name: path.read_bytes() for path in (out / "records").iterdir()} for out in (folder, tmp_path))
    assert mine == theirs
    assert not (tmp_path / "records-drift").exists()


def test_batch_size_changes_no_drift(model: Looking, data: tuple[Tensor, Tensor], folder: Path, tmp_path: Path) -> None:
    robustatt.sweep(model, data, ["fgsm", "pgd"], eps=list(EPS.values()), out=tmp_path, drift_n=18, batch_size=5)
    pd.testing.assert_frame_equal(drift_records(folder), drift_records(tmp_path), rtol=1e-4, atol=1e-6)


def test_random_signs_are_measured_beside_the_attacks(folder: Path) -> None:
    strength = read_folder(folder).summary.full_strength
    assert strength is not None
    assert strength.n == 18
    assert {row.attack for row in strength.drift} == {"pgd", "sign-noise"}
    assert {row.attack for row in strength.drift_predicts_fooling} == {"pgd"}
    drift = {
        row.attack: row.mean
        for row in read_folder(folder).summary.measured_drift()
        if (row.metric, row.eps, row.group) == ("js", "12/255", "all")
    }
    assert drift["fgsm"] == pytest.approx(drift["pgd"], rel=0.1)  # one step reaches the corner of a linear model too


def test_the_same_examples_under_every_attack_in_the_shares_of_the_classes(data: tuple[Tensor, Tensor], folder: Path) -> None:
    rows = drift_records(folder)
    chosen = {attack: sorted(set(group["index"])) for attack, group in rows.groupby("attack")}
    assert chosen["pgd"] == chosen["sign-noise"]
    share = float(data[1].float().mean())
    assert float(data[1][chosen["pgd"]].float().mean()) == pytest.approx(share, abs=1 / 18)


def test_a_damaged_file_is_computed_again(model: Looking, data: tuple[Tensor, Tensor], folder: Path) -> None:
    before = drift_records(folder)
    path = next(iter(sorted((folder / "records-drift").glob("*.parquet"))))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "1 of 2 cells at full strength is altered" in " ".join(read_folder(folder).findings)
    robustatt.sweep(model, data, ["fgsm", "pgd"], eps=list(EPS.values()), out=folder, drift_n=18)
    pd.testing.assert_frame_equal(before, drift_records(folder))
    assert not read_folder(folder).findings


def recipes(*names: str) -> list[tuple[Recipe, tuple[str, ...]]]:
    return [(recipe_files.load(name), ("1/255", "2/255")) for name in names]


@pytest.mark.parametrize(("attacks", "expected"), [
    (["fgsm", "pgd", "apgd-ce"], ["pgd", "apgd-ce", "sign-noise"]),
    (["pgd", "noise"], ["pgd"]),
    (["pgd-l2"], ["pgd-l2"]),
    (["fgsm", "r-fgsm"], []),
    (["square", "fmn", "fab-t", "autoattack"], []),
    (["sign-noise"], []),
])  # fmt: skip
def test_what_is_measured(attacks: list[str], expected: list[str]) -> None:
    assert [recipe.name for recipe, _ in measured_attacks(recipes(*attacks))] == expected


@pytest.mark.parametrize(("attacks", "examples", "wanted", "count"), [
    (["fgsm"], 500, None, 0),
    (["pgd"], 10_000, None, 100),  # 40 steps at 2 radii
    (["pgd"], 100, None, 25),
    (["pgd"], 20, None, 10),
    (["pgd"], 5, None, 5),
    (["pgd"], 100, 70, 70),
    (["pgd"], 50, 70, 50),
    (["pgd"], 100, 0, 0),
    (["square"], 100, 70, 0),
])  # fmt: skip
def test_the_size_of_the_sample(attacks: list[str], examples: int, wanted: int | None, count: int) -> None:
    assert sample_size(measured_attacks(recipes(*attacks)), examples, wanted) == count


def test_a_negative_number_is_refused(model: Looking, data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="--drift-n -1: give 0 for none"):
        robustatt.sweep(model, data, ["fgsm"], drift_n=-1)
