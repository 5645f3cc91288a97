"""Plans: read from TOML, written back, and every mistake said in one line that names the file."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from robustatt.attack import recipe_files as recipes
from robustatt.cli._plan_paths import located
from robustatt.errors import InputError
from robustatt.plan import BoundPlan, ModelEntry, Plan, model_entries, read_plan

PLAN = Plan(
    models=model_entries(["vgg", "mine=vgg_att3"], ["a.safetensors", "b.safetensors"]),
    attacks=(recipes.load("fgsm"), recipes.load("pgd")),
    eps=(Fraction(1, 255), Fraction(1, 510)),
    n=40,
    seed=3,
)


def test_a_written_plan_is_read_back() -> None:
    document = tomllib.loads(tomli_w.dumps(PLAN.to_toml()))
    again = Plan.from_toml(document, "plan")
    assert again == Plan(**{**vars(PLAN), "eps": tuple(sorted(PLAN.eps))})
    assert again.models[1] == ModelEntry("mine", "vgg_att3", "b.safetensors")


def test_a_bound_plan_is_read_back_with_the_same_keys(tmp_path: Path) -> None:
    bound = BoundPlan(PLAN, 300, ("a", "b"), "d" * 64, ("e" * 64, "f" * 64))
    bound.write(tmp_path)
    again = BoundPlan.read(tmp_path)
    assert [cell.key for cell in again.cells()] == [cell.key for cell in bound.cells()]
    assert len({cell.key for cell in bound.cells()}) == 8
    assert [(cell.start, cell.stop) for cell in bound.cells()][:2] == [(0, 256), (256, 300)]


def test_what_decides_the_numbers_decides_the_key() -> None:
    def keys(**changes: object) -> set[str]:
        return {cell.key for cell in BoundPlan(Plan(**{**vars(PLAN), **changes}), 10, ("a",), "d", ("e", "f")).cells()}

    base = keys()
    assert base == keys(batch_size=7, device="cpu", n=10)
    assert not base & keys(seed=4)
    assert not base & keys(eps=(Fraction(2, 255),))
    assert not base & keys(independent=True)
    weaker = recipes.parse({**recipes.load("pgd").model_dump(exclude_none=True), "steps": 39}, "test")
    assert len(base & keys(attacks=(recipes.load("fgsm"), weaker))) == 2, "fgsm's Cells stay, pgd's do not"
    reworded = recipes.parse({**recipes.load("pgd").model_dump(exclude_none=True), "good_for": "x"}, "test")
    assert base == keys(attacks=(recipes.load("fgsm"), reworded))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modles = ['vgg']", "did you mean 'models'"),
        ("models = 'vgg'", "wrong type"),
        ("models = []", "no model"),
        ("models = ['vgg', 'vgg']", "given twice"),
        ("models = ['vgg']\nattacks = ['pdg']", "did you mean 'pgd'"),
        ("models = ['vgg']\neps = '4..1'", "backwards"),
        ("models = ['vgg']\nattacks = ['pgd-l2']\neps = '0.25..0.75'", "ends before its first step"),
        ("models = ['vgg']\nn = 0", "at least 1"),
        ("models = ['vgg']\nseed = -1", "seed"),
        ("models = [{nme = 'vgg'}]", "did you mean 'name'"),
        ("models = [{spec = 3}]", "table of texts"),
        ("models = [", "not valid TOML"),
        ("models = ['vgg']\nattacks = [{name = 'x', algorithm = 'pgd', step_size = 0.0}]", "step_size"),
    ],
)
def test_mistakes_name_the_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        Plan.from_toml(read_plan(path), f"plan {path}")
    assert str(path) in str(caught.value)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"no plan\.toml here"):
        BoundPlan.read(tmp_path)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["models", "attacks", "eps", "n", "seed", "data", "x"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_any_document_is_a_plan_or_one_line(document: dict[str, object]) -> None:
    try:
        Plan.from_toml(document, "plan p.toml")
    except InputError as problem:
        assert str(problem).startswith("plan p.toml: ")


def test_a_bound_plan_names_its_records_by_a_text(tmp_path: Path) -> None:
    bound = BoundPlan(PLAN, 300, ("a", "b"), "d" * 64, ("e" * 64, "f" * 64), "memory://r")
    bound.write(tmp_path)
    assert BoundPlan.read(tmp_path).records == "memory://r"
    path = tmp_path / "plan.toml"
    path.write_text(path.read_text().replace('"memory://r"', "5"))
    with pytest.raises(InputError, match="records is not text"):
        BoundPlan.read(tmp_path)


def test_paths_of_a_plan_file_are_meant_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, here = tmp_path / "plans" / "plan.toml", tmp_path / "here"
    for folder in (plan.parent, here):
        folder.mkdir()
        (folder / "both.txt").touch()
    (plan.parent / "w.pt").touch()
    (plan.parent / "digits").mkdir()  # the data set of that name is meant
    (plan.parent / "mine.toml").touch()
    monkeypatch.chdir(here)
    document = {
        "data": "digits", "class_names": "both.txt", "data_root": "nowhere", "eps": "1", "attacks": ["fgsm", "mine.toml"],
        "models": ["vgg", {"name": "a", "weights": "w.pt"}, {"name": "b", "weights": "elsewhere.pt"}],
    }  # fmt: skip
    said: list[str] = []
    found = located(document, Path("../plans/plan.toml"), said.append)
    assert found == document | {
        "class_names": "../plans/both.txt", "attacks": ["fgsm", "../plans/mine.toml"],
        "models": ["vgg", {"name": "a", "weights": "../plans/w.pt"}, {"name": "b", "weights": "elsewhere.pt"}],
    }  # fmt: skip
    assert [line.partition(":")[2].split()[0] for line in said] == ["both.txt"]
    monkeypatch.chdir(plan.parent)
    assert located(document, Path("plan.toml"), said.append) == document
