"""Recipes: the shipped ones are whole, a user's mistakes are named with file, key, expected type and an
example."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from robustatt.attack import recipe_files as recipes
from robustatt.attack.algorithms import ALGORITHMS
from robustatt.attack.native_recipes import AutoAttackRecipe
from robustatt.errors import InputError


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", sorted(recipes.shipped()))
def test_shipped_recipes_say_where_they_come_from_and_what_they_cost(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert len(recipe.citation) > 10
    assert len(recipe.good_for) > 10
    gradients, forwards = recipe.cost()
    assert gradients >= 0
    assert forwards >= 1


@pytest.mark.parametrize("name", sorted(recipes.shipped()))
def test_a_recipe_survives_its_own_document(name: str) -> None:
    recipe = recipes.load(name)
    again = recipes.parse(recipe.model_dump(mode="json", exclude_none=True), where="test")
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()


def test_there_is_a_recipe_for_every_algorithm() -> None:
    assert {recipes.load(name).algorithm for name in recipes.shipped()} == set(ALGORITHMS)


def test_costs_are_those_of_the_papers() -> None:
    expected = {
        "fgsm": (1, 1), "pgd": (40, 1), "apgd-ce": (100, 1), "apgd-t": (900, 9), "square": (0, 5001), "noise": (0, 1),
        "autoattack-rand": (4000, 2), "mi-fgsm": (10, 1),
    }  # fmt: skip
    for name, cost in expected.items():
        assert recipes.load(name).cost() == cost, name


def test_autoattack_is_the_published_chain() -> None:
    standard = recipes.load("autoattack")
    assert isinstance(standard, AutoAttackRecipe)
    assert [part.algorithm for part in standard.parts()] == ["apgd", "apgd-t", "fab-t", "square"]
    sparse = recipes.load("autoattack-l1").parts()
    assert [part.algorithm for part in sparse] == ["apgd", "apgd-t", "fab-t", "square"]
    assert [(getattr(part, "restarts", 0), getattr(part, "targets", 0)) for part in sparse] == [(5, 0), (0, 5), (0, 9), (1, 0)]
    assert [getattr(part, "larger_radii", None) for part in sparse] == [True, True, None, None]
    assert {part.norm for part in sparse} == {"l1"}
    rand = recipes.load("autoattack-rand")
    assert isinstance(rand, AutoAttackRecipe)
    assert [(part.algorithm, getattr(part, "eot", 0)) for part in rand.parts()] == [
        ("apgd", 20),
        ("apgd", 20),
    ]


MISTAKES = {
    'algorithm = "pgd"\nsteps = "many"': r"mine\.toml: key 'steps': .*integer.*, not 'many', for example steps = 40",
    'algorithm = "pgd"\nsteps = 1.5': r"key 'steps': .*integer.*not 1\.5, for example steps = 40",
    'algorithm = "pgd"\nstep_size = 0': r"key 'step_size': .*greater than 0.*not 0.*for example step_size = 0\.1",
    'algorithm = "pgd"\nstep_size = nan': r"key 'step_size'.*for example step_size = 0\.1",
    'algorithm = "pgd"\nstepz = 3': r"unknown key 'stepz': did you mean 'steps'\?",
    'algorithm = "pgd"\nnorm = "l3"': r"key 'norm': .*'linf', 'l2' or 'l1'.*not 'l3', for example norm = \"linf\"",
    'algorithm = "pgd"\nrandom_start = 1': r"key 'random_start': .*boolean.*not 1",
    'algorithm = "pgd"\nrestarts = 3\nrandom_start = false': "restarts = 1 is all that makes sense with random_start = false",
    'algorithm = "mi-fgsm"\nrestarts = 2': r"key 'restarts'.*not 2, for example restarts = 1",
    'algorithm = "pgd"\ntargeted = true': "targeted without targets: write targeted = \"least-likely\"",
    'algorithm = "pgd"\ntargeted = []': "targeted without targets",
    'algorithm = "square"\ntargeted = ""': "targeted without targets",
    'algorithm = "pgd"\ntargeted = "most"': "targets must be \"least-likely\", \"random\", \"next\"",
    'algorithm = "pgd"\ntargeted = [1, "a"]': "targets must be",
    'algorithm = "pgd"\ntargeted = -1': "targets must be",
    'algorithm = "pdg"': r"unknown algorithm 'pdg': did you mean 'pgd'\?.*torchattacks:DIFGSM",
    'algorithm = "advertorch:PGD"': "unknown algorithm 'advertorch:PGD'",
    "steps = 3": 'key "algorithm" is missing.*algorithm = "pgd"',
    "algorithm = 3": 'key "algorithm" is missing or not text',
    'algorithm = "pgd': "not valid TOML",
    'algorithm = "apgd"\nrho = 1.5': r"key 'rho': .*less than 1.*for example rho = 0\.75",
    'algorithm = "apgd"\nlarger_radii = true': 'larger_radii = true is made for norm = "l1"',
    'algorithm = "fab-t"\nbeta = 1': r"key 'beta': .*less than 1",
    'algorithm = "torchattacks:PGD"\nstep = 3': r"unknown key 'step'.*arguments",
}  # fmt: skip


@pytest.mark.parametrize("text", sorted(MISTAKES))
def test_a_mistake_is_named_with_file_key_type_and_example(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=MISTAKES[text]) as caught:
        recipes.load(write(tmp_path, text))
    assert str(caught.value).startswith(f"recipe {tmp_path / 'mine.toml'}")
    assert "\n" not in str(caught.value) or "TOML" in str(caught.value)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown attack 'autoatack': did you mean 'autoattack'"):
        recipes.load("autoatack")
    with pytest.raises(InputError, match=r"absent\.toml: cannot be read"):
        recipes.load(str(tmp_path / "absent.toml"))


def test_targets_can_be_a_list(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, 'algorithm = "pgd"\ntargeted = [3, 1, 2]'))
    assert recipe.decisive()["targeted"] == [3, 1, 2]
    assert recipes.parse(recipe.model_dump(mode="json", exclude_none=True), where="again") == recipe


def test_the_name_is_the_file_s_unless_it_says_another(tmp_path: Path) -> None:
    assert recipes.load(write(tmp_path, 'algorithm = "fgsm"')).name == "mine"
    assert recipes.load(write(tmp_path, 'algorithm = "fgsm"\nname = "other"')).name == "other"


def test_prose_does_not_decide_numbers_and_parameters_do(tmp_path: Path) -> None:
    plain = recipes.load(write(tmp_path, 'algorithm = "pgd"'))
    cited = recipes.load(write(tmp_path, 'algorithm = "pgd"\ncitation = "me"\ngood_for = "nothing"'))
    longer = recipes.load(write(tmp_path, 'algorithm = "pgd"\nsteps = 41'))
    assert plain.fingerprint() == cited.fingerprint() != longer.fingerprint()


def test_a_later_key_decides_numbers_only_where_it_is_set(tmp_path: Path) -> None:
    """Records of before it was there keep their keys."""
    plain = recipes.load(write(tmp_path, 'algorithm = "apgd"\nnorm = "l1"'))
    larger = recipes.load(write(tmp_path, 'algorithm = "apgd"\nnorm = "l1"\nlarger_radii = true'))
    assert "larger_radii" not in plain.decisive()
    assert larger.decisive() == {**plain.decisive(), "larger_radii": True}


def test_recipes_are_read_without_torch() -> None:
    code = "import sys; from robustatt.attack import recipe_files; recipe_files.load('pgd'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_folder_holds_recipes_and_their_readme_alone() -> None:
    names = {path.name for path in recipes.folder().iterdir()}
    assert {name for name in names if not name.endswith(".toml")} <= {"README.md"}
    for path in recipes.shipped().values():
        assert not any(isinstance(value, dict) for value in tomllib.loads(path.read_text()).values()), path
