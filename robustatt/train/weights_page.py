"""The README of a folder of weights: a table of the networks and the commands that make them, both from the cards.

They stand between two marks; what is around the marks is written by hand and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from robustatt.errors import InputError
from robustatt.files import write_whole
from robustatt.models.card import Card, read_cards
from robustatt.report.markdown import table
from robustatt.train.recipe import TrainingRecipe
from robustatt.train.watch import ROBUST

BEGIN = "<!-- from the cards: written by `robustatt models --readme`, not by hand -->"
END = "<!-- end of what is from the cards -->"


def check_readme(folder: Path) -> None:
    """That a README can be written there.

    Raises:
        InputError: there is one without the marks, which would be overwritten.
    """
    path = folder / "README.md"
    if path.exists():
        _around(path)


def _shown(folder: Path) -> str:
    """A folder as commands name it: from the working folder, if it is inside."""
    whole, here = folder.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else folder.name


def readme_text(folder: Path, place: str, title: str = "Weights") -> str:
    """The README with the table and commands that its folder's weights now have; ``place`` is what commands call the folder.

    Raises:
        InputError: there are no weights, or a README without the marks.
    """
    cards, path = read_cards(folder), folder / "README.md"
    if not cards:
        raise InputError(f"{folder}: no .safetensors here: give a folder of weights, such as robustatt/weights/cifar10")
    before, after = _around(path) if path.exists() else (f"# {title}\n\n", "")
    return f"{before}{BEGIN}\n\n{_described(cards, place)}\n{END}\n{after}"


def write_readme(folder: Path, title: str = "Weights") -> Path:
    """Writes the table and the commands of a folder's weights into its README; the path.

    Raises:
        InputError: there are no weights, or a README without the marks.
    """
    path = folder / "README.md"
    write_whole(path, readme_text(folder, _shown(folder), title).encode())
    return path


def _around(path: Path) -> tuple[str, str]:
    text = path.read_text(encoding="utf-8")
    before, mark, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not mark or not end:
        raise InputError(f"{path} has no place for the table: put the lines {BEGIN!r} and {END!r} where it is to stand")
    return before, after


def _described(cards: Mapping[str, Card], place: str) -> str:
    recipes = {stem: TrainingRecipe.of_card(card) for stem, card in cards.items()}
    lines = [*_table(cards, recipes), "", "Made from the root of the repository with `OMP_NUM_THREADS=1` by"]
    lines += ["", "```", *(recipe.command(f"{place}/{stem}.safetensors") for stem, recipe in recipes.items()), "```", ""]
    lines += _explained(cards, recipes)
    return "\n".join(lines)


def _table(cards: Mapping[str, Card], recipes: Mapping[str, TrainingRecipe]) -> list[str]:
    heads = ["network", "width", "epochs", "seed", "clean test accuracy"]
    attacked = any(recipe.adversarial for recipe in recipes.values())
    heads += ["trained on", "under PGD-10, held-out images"] if attacked else []
    rows = []
    for stem, card in cards.items():
        rows.append([f"`{stem}`", f"{card.width:g}", str(card.epochs), str(card.seed), card.accuracy])
        if attacked:
            recipe, held = recipes[stem], card.history.get(ROBUST)
            images = f"{recipe.adversarial}, {recipe.train_eps}" if recipe.adversarial else "clean images"
            rows[-1] += [images, "-" if held is None else f"{held:.1%}".replace("%", " %")]
    return table(heads, rows, right={1, 2, 3, 4})


def _explained(cards: Mapping[str, Card], recipes: Mapping[str, TrainingRecipe]) -> list[str]:
    """What the table and the commands leave open, a line each."""
    commands = "\n".join(recipe.command("") for recipe in recipes.values())
    said = (
        ["The weights are those of the last epoch: no test image chose anything."]
        if all(recipe.keep == "last" for recipe in recipes.values())
        else []
    )
    if "DIR" in commands:
        said.append("DIR is the folder with the data (docs/data.md).")
    for stem, recipe in recipes.items():
        if "--init FILE" in recipe.command(""):
            said.append(f"FILE of `{stem}` is {recipe.init}, no longer bundled.")
        if "stopped" in cards[stem].history:
            said.append(f"`{stem}` stopped early: {cards[stem].history['stopped']}.")
    said.append("Another number of threads, processor or PyTorch release changes the last bits, and with them the weights.")
    return [*said, ""]
