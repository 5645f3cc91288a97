"""Radii by norm: plain numbers for L2 and L1, steps of 1/255 for L-infinity, a grid of its own for each attack."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import TwoClassLinear, images

import robustatt
from robustatt.attack.recipe import Recipe
from robustatt.attack.recipe_files import load, parse
from robustatt.cli import main
from robustatt.eps import axis_value, format_radius, parse_radius
from robustatt.errors import InputError
from robustatt.plan import ModelEntry, Plan, radii_by_attack
from robustatt.report import text

MODEL = (ModelEntry("vgg", "vgg"),)


def plan(*attacks: str | Recipe, texts: tuple[str, ...] = ()) -> Plan:
    """A plan of these attacks with the grids of these texts."""
    recipes = tuple(load(attack) if isinstance(attack, str) else attack for attack in attacks)
    common, grids = radii_by_attack(recipes, texts)
    return Plan(MODEL, recipes, common, grids=grids)


def radii(made: Plan) -> dict[str, tuple[str, ...]]:
    """What each attack of a plan is run at."""
    return {attack.name: made.radii_of(attack) for attack in made.attacks}


@pytest.mark.parametrize(
    ("eps", "norm", "text"),
    [
        (Fraction(8, 255), "linf", "8/255"), (Fraction(1, 510), "linf", "0.5/255"), (Fraction(1, 3), "linf", "85/255"),
        (Fraction(1, 2), "l2", "0.5"), (Fraction(2), "l2", "2"), (Fraction(12), "l1", "12"), (Fraction(1, 8), "l2", "0.125"),
        (Fraction(8, 255), "l2", "8/255"), (Fraction(1, 7), "l2", "1/7"),
    ],
)  # fmt: skip
def test_a_radius_is_written_as_people_write_it_and_read_back_exactly(eps: Fraction, norm: str, text: str) -> None:
    assert format_radius(eps, norm) == text
    assert parse_radius(text) == eps
    assert axis_value(text, norm) == pytest.approx(float(eps * 255 if norm == "linf" else eps))


def test_text_counts_in_the_unit_of_the_norm() -> None:
    assert radii(plan("fgsm", "pgd-l2", "apgd-l1", texts=("0.5,2",))) == {
        "fgsm": ("0.5/255", "2/255"), "pgd-l2": ("0.5", "2"), "apgd-l1": ("0.5", "2"),
    }  # fmt: skip


def test_the_last_grid_of_several_counts() -> None:
    texts = ("1..16", "pgd=1", "pgd=2,4", "8")
    assert radii(plan("fgsm", "pgd", texts=texts)) == {"fgsm": ("8/255",), "pgd": ("2/255", "4/255")}


def test_an_attack_of_which_nothing_is_said_has_the_grid_of_its_norm() -> None:
    found = radii(plan("fgsm", "pgd-l2", "apgd-l1"))
    assert found["fgsm"] == tuple(f"{step}/255" for step in range(1, 17))
    assert found["pgd-l2"] == ("0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2")
    assert found["apgd-l1"][0] == "2"
    assert found["apgd-l1"][-1] == "24"


def test_one_attack_may_have_a_grid_of_its_own() -> None:
    mine = parse({"name": "mine", "algorithm": "pgd", "norm": "l2", "eps": "0.1,0.2"}, "test")
    found = radii(plan("fgsm", "pgd-l2", mine, texts=("1,2", "pgd-l2=0.25,1")))
    assert found == {"fgsm": ("1/255", "2/255"), "pgd-l2": ("0.25", "1"), "mine": ("0.1", "0.2")}
    assert radii(plan("fgsm", mine, texts=("mine=3",)))["mine"] == ("3",)
    with pytest.raises(InputError, match="attack 'pgd-12' is not run: did you mean 'pgd-l2'"):
        plan("pgd-l2", texts=("pgd-12=1",))


def test_a_plan_with_several_grids_is_read_back_as_it_was() -> None:
    made = plan("fgsm", "pgd-l2", "apgd-l1", texts=("1,2", "apgd-l1=4", "0.5/255"))
    again = Plan.from_toml(made.to_toml(), "plan")
    assert radii(again) == radii(made)
    assert again.attacks[0].decisive() == made.attacks[0].decisive()
    only = plan("pgd-l2", texts=("0.5",))
    assert radii(Plan.from_toml(only.to_toml(), "plan")) == {"pgd-l2": ("0.5",)}


def test_the_grid_of_a_recipe_does_not_change_its_fingerprint() -> None:
    with_grid = parse({"name": "a", "algorithm": "pgd", "norm": "l2", "eps": "0.5"}, "test")
    assert with_grid.fingerprint() == parse({"name": "a", "algorithm": "pgd", "norm": "l2"}, "test").fingerprint()


def test_only_an_l_infinity_radius_may_not_exceed_the_pixel_range() -> None:
    assert radii(plan("pgd-l2", texts=("2.5",))) == {"pgd-l2": ("2.5",)}
    with pytest.raises(InputError, match="larger than the whole pixel range"):
        plan("fgsm", texts=("256",))


def linear() -> tuple[TwoClassLinear, torch.Tensor, torch.Tensor]:
    """A linear model and images so near to its boundary that the box does not matter."""
    model, image = TwoClassLinear(), images(60)
    with torch.no_grad():
        return model, image, model(image).argmax(1)


def exact(model: TwoClassLinear, image: torch.Tensor, norm: str, eps: float) -> float:
    """The share whose distance to the boundary, |margin| over the dual norm of the weights, exceeds eps."""
    with torch.no_grad():
        logits = model(image).double()
        across = (model.weight[0] - model.weight[1]).double()
    dual = across.norm() if norm == "l2" else across.abs().max()
    return float(((logits[:, 0] - logits[:, 1]).abs() / dual > eps).double().mean())


@pytest.mark.parametrize(("attack", "norm", "eps"), [("pgd-l2", "l2", [0.02, 0.05, 0.1]), ("apgd-l1", "l1", [0.1, 0.3])])
def test_a_linear_model_is_answered_exactly_at_plain_radii(attack: str, norm: str, eps: list[float]) -> None:
    model, image, label = linear()
    expected = [exact(model, image, norm, radius) for radius in eps]
    assert 0 < expected[-1] < expected[0]
    text = ",".join(map(str, eps))
    for given in (eps, text, {attack: text}, {attack: eps}):
        curve = robustatt.sweep(model, (image, label), attacks=[attack], eps=given).curve(attack)
        assert curve["eps"].tolist() == ["0/255", *map(str, eps)]
        assert curve["accuracy"].tolist()[1:] == pytest.approx(expected)


def test_from_the_command_line_to_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, image, label = linear()
    bytes_ = (image * 255).round().to(torch.uint8)
    np.savez(tmp_path / "data.npz", images=bytes_.permute(0, 2, 3, 1).numpy(), labels=label.numpy())
    (tmp_path / "nets_radii.py").write_text("from tiny_models import TwoClassLinear as build\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = str(tmp_path / "out")
    flags = ["--data", str(tmp_path / "data.npz"), "--model", "nets_radii:build", "--out", folder]
    flags += ["--attack", "pgd-l2", "--attack", "fgsm", "--eps", "pgd-l2=0.02,0.05", "--eps", "1,2"]
    assert main(["sweep", *flags]) == 0
    out = capsys.readouterr().out
    assert re.search(r"L2, 60 images", out)
    assert re.search(r"L-infinity, 60 images", out)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    curves = {curve["attack"]: curve for curve in summary["curves"]}
    assert [point["eps"] for point in curves["fgsm"]["points"]] == ["0/255", "1/255", "2/255"]
    points = curves["pgd-l2"]["points"]
    assert [point["eps"] for point in points] == ["0/255", "0.02", "0.05"]
    right = model(bytes_ / 255).argmax(1) == label
    expected = [exact(model, (bytes_ / 255)[right], "l2", eps) * float(right.double().mean()) for eps in (0.02, 0.05)]
    assert [point["accuracy"] for point in points][1:] == pytest.approx(expected)
    assert main(["sweep", *flags]) == 0
    assert "0 cells computed, 2 found on disk" in capsys.readouterr().out
    assert main(["report", folder]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "Accuracy against radius, L2" in page
    assert "<h3>L-infinity</h3>" in page
    table = pd.read_csv(tmp_path / "out/tables/summary.csv", dtype=str)
    assert set(table["norm"]) == {"linf", "l2"}
    assert main(["check", folder, "--update", str(tmp_path / "reference.json")]) == 0
    assert main(["check", folder, "--reference", str(tmp_path / "reference.json")]) == 0


def test_norms_share_no_strongest_attack_no_tile_and_no_axis() -> None:
    model, image, label = linear()
    result = robustatt.sweep(model, (image, label), attacks=["fgsm", "pgd-l2"], eps={"fgsm": "1,2", "pgd-l2": "0.02,0.05"})
    assert text.strongest_by_norm(result.typed_summary) == {"linf": "fgsm", "l2": "pgd-l2"}
    tiles = [(tile.title, tile.note) for tile in text.tiles(result.typed_summary)]
    assert ("Accuracy at 2/255", "under fgsm, L-infinity") in tiles
    assert ("Accuracy at 0.05", "under pgd-l2, L2") in tiles
    assert sum(title == text.CLEAN_TITLE for title, _ in tiles) == 1
    from robustatt.report.figures import sweep_figures as figures
    from robustatt.report.style import DASHES

    for figure in figures(result.typed_summary):
        for panel in figure.panels:
            assert len({series.norm for series in panel.series}) == 1, figure.title
    assert {(s.keys["attack"], s.look.dash) for f in figures(result.typed_summary) for p in f.panels for s in p.series} == {
        ("fgsm", ()), ("pgd-l2", DASHES[1]),
    }  # fmt: skip
    slugs = [figure.slug for figure in figures(result.typed_summary)]
    assert len(slugs) == len(set(slugs))
