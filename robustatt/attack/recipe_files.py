"""Recipes: what an attack is, as data. One TOML file each; nothing here imports torch."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from robustatt.attack.algorithms import ALGORITHMS, LIBRARIES
from robustatt.attack.algorithms import algorithm as native
from robustatt.attack.corruption import corruption_recipe
from robustatt.attack.recipe import ExternalRecipe, Recipe
from robustatt.corruptions.kinds import KINDS
from robustatt.errors import InputError, did_you_mean


def folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or `attacks/` of a checkout."""
    shipped = Path(str(resources.files("robustatt"))) / "_recipes"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[2] / "attacks"


def shipped() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(folder().glob("*.toml"))}


def load(name_or_path: str) -> Recipe:
    """The recipe of a shipped attack (`pgd`), of a corruption (`fog`) or of a user's file (`mine.toml`).

    Raises InputError naming the file, the key, what was expected and what would be right.
    """
    known = shipped()
    if name_or_path in known:
        return read(known[name_or_path])
    if name_or_path.endswith(".toml"):
        return read(Path(name_or_path))
    if name_or_path in KINDS:
        return corruption_recipe(name_or_path)
    if _foreign(name_or_path):
        raise InputError(
            f"{name_or_path!r} is a class of another library: write a recipe file with algorithm = {name_or_path!r} and "
            "give its path, such as --attack mine.toml"
        )
    raise InputError(f"unknown attack {name_or_path!r}: {did_you_mean(name_or_path, known)}, or a recipe file such as mine.toml")


def read(path: Path) -> Recipe:
    """The recipe in a TOML file; the file's stem is its name unless it says another."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"recipe {path}: cannot be read ({_reason(problem)})") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise InputError(f"recipe {path}: not valid TOML: {problem}") from None
    return parse({"name": path.stem, **content}, where=f"recipe {path}")


def parse(content: dict[str, Any], where: str) -> Recipe:
    """A recipe from its keys; every mistake is an InputError that begins with `where`."""
    algorithm = content.get("algorithm")
    if not isinstance(algorithm, str):
        raise InputError(f'{where}: key "algorithm" is missing or not text: write for example algorithm = "pgd"')
    kind = ExternalRecipe if _foreign(algorithm) else native(algorithm)
    if kind is None:
        others = ', or a class of another library such as "torchattacks:DIFGSM"'
        raise InputError(f"{where}: unknown algorithm {algorithm!r}: {did_you_mean(algorithm, ALGORITHMS)}{others}")
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise InputError(f"{where}: {_first_mistake(problem, kind)}") from None


def _foreign(algorithm: str) -> bool:
    """Whether a name is that of another library's class, such as torchattacks:DIFGSM."""
    library, colon, _ = algorithm.partition(":")
    return bool(colon) and library in LIBRARIES


def _first_mistake(problem: ValidationError, kind: type[BaseModel]) -> str:
    error = problem.errors()[0]
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        elsewhere = "arguments of the class itself stand under [arguments]"
        return f"unknown key {key!r}: {elsewhere if kind is ExternalRecipe else did_you_mean(key, kind.model_fields)}"
    example = kind.model_fields[key].default if key in kind.model_fields else None
    hint = f", for example {key} = {json.dumps(example)}" if isinstance(example, int | float | str) and example != "" else ""
    said = error["msg"].removeprefix("Value error, ")
    given = f", not {error['input']!r}" if error["type"] != "missing" and key else ""
    return f"{f'key {key!r}: ' if key else ''}{said[0].lower()}{said[1:]}{given}{hint}"


def _reason(problem: Exception) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else "not UTF-8 text"
