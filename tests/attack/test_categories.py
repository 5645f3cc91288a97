"""What sort of attack a recipe is decides how every part of the program treats it, never its file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from synthetic_records import broken_records
from tiny_models import Linear, linear_data

import robustatt
from robustatt.attack import recipe_files
from robustatt.attack.algorithms import ALGORITHMS
from robustatt.attack.base import Batch, Chain, MinimumNormAttack, ModelOutput, SingleDirectionAttack, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.recipe import ACCESS, NO_ADVERSARIES, ExternalRecipe, Recipe
from robustatt.attack.rng import ExampleRng
from robustatt.cli._sweep_tables import print_summary
from robustatt.cli.lists import attacks
from robustatt.engine.scheduler import full_strength
from robustatt.evaluate.gallery_examples import attack_to_show
from robustatt.health.records import check_records
from robustatt.report.text import STRENGTH, limits, strongest_attack
from robustatt.results.gate import check
from robustatt.results.reference import make_reference

MODEL = Linear(3)
DATA = linear_data(MODEL, 60)

OWN = {
    "l2-noise.toml": 'algorithm = "noise"\nnorm = "l2"\neps = "0.5,1"',
    "shaken.toml": 'algorithm = "noise"',
    "my-fgsm.toml": 'algorithm = "fgsm"',
    "one-step.toml": 'algorithm = "pgd"\nsteps = 1\nstep_size = 1.0\nrandom_start = false',
    "thorough.toml": 'algorithm = "pgd"\nsteps = 20',
}


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """Recipes of a user, by the names of their files."""
    for name, text in OWN.items():
        (tmp_path / name).write_text(text)
    return {Path(name).stem: str(tmp_path / name) for name in OWN}


def test_every_algorithm_says_what_the_program_must_know_of_it() -> None:
    shipped = {recipe_files.load(name).algorithm: recipe_files.load(name) for name in recipe_files.shipped()}
    listed = (ROOT / "attacks" / "README.md").read_text()
    assert set(shipped) == set(ALGORITHMS)
    for name, recipe in shipped.items():
        attack = build(recipe, 10)
        assert isinstance(attack, SteppedAttack | SingleDirectionAttack | Chain)
        assert recipe.one_run == isinstance(attack, SingleDirectionAttack | MinimumNormAttack), name
        assert (recipe.category == "minimum-norm") == isinstance(attack, MinimumNormAttack), name
        assert recipe.category in (*STRENGTH, *NO_ADVERSARIES), name
        gradients, forwards = full_strength(recipe, 16, independent=False)
        assert (gradients == 0) == (recipe.access in ("black-box", "label-only", "none")), name
        assert (recipe.access == "none") == (recipe.category == "control"), name
        assert forwards >= 17
        assert name in listed, name


def test_what_each_needs_of_the_model_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`robustatt attacks` and the table beside the recipes say what the recipe says."""
    attacks()
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = {words[0]: words[1] for words in printed if len(words) > 2 and words[0] in recipe_files.shipped()}
    table = [line for line in (ROOT / "attacks" / "README.md").read_text().splitlines() if line.startswith("| ")]
    for name in recipe_files.shipped():
        access = recipe_files.load(name).access
        assert listed[name] == access
        assert any(line.startswith(f"| {access}: {ACCESS[access]} |") and f"`{name}`" in line for line in table), name


def test_what_needs_labels_alone_gets_nothing_else() -> None:
    """Logits of another scale and with other margins, but the same labels, change no query of a label-only attack."""
    for name in recipe_files.shipped():
        recipe = recipe_files.load(name)
        if recipe.access != "label-only":
            continue
        attack = build(recipe, 3)
        assert isinstance(attack, SteppedAttack)
        image, label = DATA[0][:6], MODEL(DATA[0][:6]).argmax(1)
        rows = Batch.at(1.0, image, label, MODEL(image).detach())
        asked = []
        for hides in (False, True):
            state = attack.start(rows, ExampleRng(0, name))
            for _ in range(40):
                logits = MODEL(attack.query(state)).detach()
                shown = torch.nn.functional.one_hot(logits.argmax(1), 3).float() if hides else logits
                state = attack.step(rows, state, ModelOutput(shown, torch.zeros(6), None))
            asked.append(attack.query(state))
        assert torch.equal(*asked), name


def test_controls_and_single_steps_of_any_name(own: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    result = robustatt.sweep(MODEL, DATA, attacks=[own["my-fgsm"], own["shaken"], own["l2-noise"]], eps="8,16")
    summary = result.typed_summary
    assert [not summary.is_adversary(name) for name in ("my-fgsm", "shaken", "l2-noise")] == [False, True, True]
    assert strongest_attack(summary.of_norm("linf")) == "my-fgsm"
    assert "Single steps alone were run (my-fgsm)" in limits(summary)[1]
    assert {entry.attack for entry in summary.confusion} == {"my-fgsm"}
    print_summary(summary)
    assert "my-fgsm alone is an upper bound" in capsys.readouterr().out
    assert {curve.attack for curve in make_reference(result.records, summary).curves} == {"my-fgsm"}
    assert attack_to_show([recipe_files.load(own[name]) for name in ("my-fgsm", "shaken")], result.records) == "my-fgsm"


def test_a_control_is_not_guarded_by_the_gate(own: dict[str, str]) -> None:
    """A reference holds no control, so one that is left out later is no changed plan."""
    both = robustatt.sweep(MODEL, DATA, attacks=["fgsm", own["shaken"]], eps="8")
    alone = robustatt.sweep(MODEL, DATA, attacks=["fgsm"], eps="8")
    reference = make_reference(both.records, both.typed_summary)
    assert check(alone.records, alone.typed_summary, reference).verdict == "same"


def test_health_compares_by_category(own: dict[str, str]) -> None:
    """Noise that breaks as much as an attack, and a single step that breaks more than many, whatever they are called."""
    recipes = [recipe_files.load(own[name]) for name in ("one-step", "thorough", "shaken")]
    assert [recipe.category for recipe in recipes] == ["single-step", "iterative", "control"]
    few, many, others = (np.isin(np.arange(100), chosen)[:, None] for chosen in (range(20), range(60), range(10, 40)))
    loud = check_records(broken_records({"one-step": few, "thorough": few, "shaken": others}, ["8/255"]), recipes)
    weak = check_records(broken_records({"one-step": many, "thorough": few}, ["8/255"]), recipes)
    assert [(entry.code, entry.attack) for entry in loud] == [("noise-as-strong", "thorough")]
    assert [(entry.code, entry.attack) for entry in weak] == [("iterative-weaker", "thorough")]


def test_recipes_of_other_libraries_are_their_own_category() -> None:
    recipe: Recipe = ExternalRecipe(name="x", algorithm="torchattacks:PGD")
    assert (recipe.category, recipe.one_run) == ("external", False)
