"""What decides weights is told the same by a request, by the card of what it trains and by the command that the card prints."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from robustatt import cli
from robustatt.data import load
from robustatt.errors import InputError
from robustatt.models import bundled, bundled_path, read_card
from robustatt.train import TrainRequest, train
from robustatt.train import request as declared
from robustatt.train.recipe import TrainingRecipe
from robustatt.train.weights_page import readme_text, write_readme

requests = st.builds(
    TrainRequest,
    model=st.sampled_from(["vgg", "vgg_att2_indep", "resnet164"]),
    out=st.just("w.safetensors"),
    data=st.sampled_from(["digits", "cifar10"]),
    width=st.sampled_from([0.125, 1.0]),
    epochs=st.integers(1, 99),
    seed=st.integers(0, 99),
    schedule=st.sampled_from(["onecycle", "paper"]),
    lr=st.none() | st.sampled_from([0.05, 0.1, 1.0]),
    batch_size=st.sampled_from([64, 128]),
    weight_decay=st.sampled_from([0.0, 1e-4, 5e-4]),
    dropout=st.sampled_from([0.0, 0.5, 1.0]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    flip=st.sampled_from([None, True, False]),
    crop=st.sampled_from([None, True, False]),
    adversarial=st.sampled_from([None, "fgsm", "pgd"]),
    train_eps=st.sampled_from([4.0, 8.0, 0.5]),
    keep=st.sampled_from(["last", "best"]),
    input_size=st.sampled_from([None, 64]),
    half=st.booleans(),
)


@cache
def program() -> typer.core.TyperCommand:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands["train"]
    assert isinstance(command, typer.core.TyperCommand)
    return command


def requested_by(command: str) -> TrainRequest:
    """The request that a command line makes."""
    given = program().make_context("train", command.split()[2:]).params
    return TrainRequest(**{setting.name: given[setting.name] for setting in declared.settings()})


@settings(deadline=None, max_examples=50)
@given(requests)
def test_the_command_of_a_recipe_asks_for_the_same_recipe(request: TrainRequest) -> None:
    recipe = TrainingRecipe.of_request(request)
    again = TrainingRecipe.of_request(requested_by(recipe.command("x.safetensors")))
    assert recipe.differences(again) == []


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("robustatt/weights/*/*.safetensors")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_command_of_a_card_asks_for_what_the_card_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # --init is a path in the repository
    recipe = TrainingRecipe.of_card(read_card(path))
    command = recipe.command("x.safetensors")
    if "FILE" not in command:
        assert TrainingRecipe.of_request(requested_by(command)).differences(recipe) == []


@pytest.mark.filterwarnings("ignore:.*bfloat16 instructions")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"adversarial": "fgsm", "train_eps": 4, "half": True},
        {"keep": "best", "lr": 0.05, "flip": True},
        {"precision": "bf16"},
    ],
)
def test_a_card_says_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    from robustatt.data.views import Sample, stratified

    def few(name: str, split: str, **_: Any) -> Sample:
        whole = load(name, split)
        return Sample(whole, stratified(whole.labels, 40, 0))

    monkeypatch.setattr("robustatt.train.loop.datasets.load", few)
    request = TrainRequest(
        model="vgg", out=tmp_path / "w.safetensors", width=0.03125, epochs=1, batch_size=16, device="cpu", **fields
    )
    card = train(request)
    assert TrainingRecipe.of_request(request).differences(TrainingRecipe.of_card(card)) == []
    other = TrainRequest(**{**vars(request), "seed": 1, "weight_decay": 0.0})
    assert TrainingRecipe.of_request(other).differences(TrainingRecipe.of_card(card)) == [
        "seed 0, not 1",
        "weight_decay 0.0005, not 0.0",
    ]


def test_a_card_without_a_history_has_no_recipe() -> None:
    card = read_card(bundled_path("vgg")).model_copy(update={"history": {}})
    with pytest.raises(InputError, match="does not say its schedule"):
        TrainingRecipe.of_card(card)


def test_the_flags_of_the_command_are_the_settings_of_a_request() -> None:
    """Each with its default, so that a default is said in one place."""
    flags = {parameter.name: parameter for parameter in program().params}
    assert set(flags) - {setting.name for setting in declared.settings()} == {"plan", "only", "minutes", "help"} & set(flags)
    for setting in declared.settings():
        if setting.name not in ("model", "out"):
            assert flags[setting.name].default == setting.default


def test_a_state_of_an_earlier_version_still_belongs_to_its_request() -> None:
    """The text is in the resume files of trainings that are under way."""
    request = TrainRequest(model="vgg_att2_concat", out=Path("a"), data="cifar10", width=0.125, epochs=20, dropout=0, half=True)
    assert request.identity() == (
        '{"adversarial": null, "batch_size": 128, "crop": null, "data": "cifar10", "dropout": 0.0, "epochs": 20, "flip": null, '
        '"init": null, "input_size": null, "keep": "last", "label_column": null, "label_smoothing": 0.0, "lr": null, '
        '"model": "vgg_att2", "schedule": "onecycle", "seed": 0, "train_eps": 8.0, "weight_decay": 0.0005, "width": 0.125}'
    )


FOLDERS = [*ROOT.glob("robustatt/weights/*/"), *(path.parent for path in ROOT.glob("reports/*/trained/README.md"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_readmes_say_what_the_cards_say(folder: Path) -> None:
    """If not: `robustatt models --readme FOLDER`, from the root of the repository."""
    assert (folder / "README.md").read_text() == readme_text(folder, folder.relative_to(ROOT).as_posix())


def test_a_readme_is_written_between_its_marks_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    assert cli.main(["models", "--readme", str(folder)]) == 2
    assert "no .safetensors here" in capsys.readouterr().err
    shutil.copy(bundled_path("vgg"), folder)
    path = write_readme(folder)
    whole = path.read_text()
    assert "| `vgg` | 0.125 | 30 | 0 | 99.40 % |" in whole
    table = whole.removeprefix("# Weights\n\n")
    path.write_text(f"# Mine\n\n{table.replace('99.40', '12.34')}\nAnd below.\n")
    assert cli.main(["models", "--readme", str(folder)]) == 0
    assert path.read_text() == f"# Mine\n\n{table}\nAnd below.\n"
    path.write_text("# Mine\n")
    assert cli.main(["models", "--readme", str(folder)]) == 2
    assert "has no place for the table" in capsys.readouterr().err
    assert path.read_text() == "# Mine\n"


def test_models_lists_the_accuracy_epochs_and_seed_of_all_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for data, names in bundled().items():
        for name in names:
            card = read_card(bundled_path(name, data))
            said = [data, name, f"{card.width:g}", str(card.epochs), str(card.seed), *card.accuracy.split()]
            assert any(line[: len(said)] == said for line in lines), said
