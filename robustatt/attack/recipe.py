"""Recipes: what an attack is, as data. One TOML file each; nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustatt.errors import InputError, did_you_mean

NormName = Literal["linf", "l2", "l1"]
LossName = Literal["stable", "ce", "margin", "dlr"]
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """What every recipe says. `norm` is the threat model's norm; the radius comes from the plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    #: (gradients, forwards) an example and radius, when nothing is saved; filled in by subclasses
    prose: ClassVar[tuple[str, ...]] = ("citation", "good_for")

    name: str
    algorithm: str
    norm: NormName = "linf"
    citation: str = ""
    good_for: str = ""

    def cost(self) -> tuple[int, int]:
        """Gradients and forward passes an image and radius at full strength, when the grid saves nothing."""
        raise NotImplementedError

    def decisive(self) -> dict[str, Any]:
        """Everything that decides this attack's numbers: all but the prose."""
        return self.model_dump(mode="json", exclude=set(self.prose))

    def fingerprint(self) -> str:
        """sha256 of what decides the numbers."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()


class FgsmRecipe(Recipe):
    """One step along the steepest direction of the loss at the clean image."""

    algorithm: Literal["fgsm"]
    loss: LossName = "stable"

    def cost(self) -> tuple[int, int]:
        return 1, 1


class PgdRecipe(Recipe):
    """Projected gradient ascent; `step_size` is a share of eps."""

    algorithm: Literal["pgd"]
    loss: LossName = "stable"
    steps: Count = 40
    step_size: Share = 0.1
    restarts: Count = 1
    random_start: bool = True

    def cost(self) -> tuple[int, int]:
        return self.steps * self.restarts, self.restarts

    def model_post_init(self, context: Any) -> None:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts = 1 is all that makes sense with random_start = false: every restart is the same")


KINDS: dict[str, type[Recipe]] = {"fgsm": FgsmRecipe, "pgd": PgdRecipe}


def folder() -> Path:
    """Where the shipped recipes lie: inside the wheel, or `attacks/` of a checkout."""
    shipped = Path(str(resources.files("robustatt"))) / "_recipes"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parents[2] / "attacks"


def shipped() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(folder().glob("*.toml"))}


def load(name_or_path: str) -> Recipe:
    """The recipe of a shipped attack (`pgd`) or of a user's file (`mine.toml`).

    Raises InputError naming the file, the key, what was expected and what would be right.
    """
    known = shipped()
    if name_or_path in known:
        return read(known[name_or_path])
    if name_or_path.endswith(".toml"):
        return read(Path(name_or_path))
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
        raise InputError(f'{where}: key "algorithm" is missing or no text: write for example algorithm = "pgd"')
    kind = KINDS.get(algorithm)
    if kind is None:
        raise InputError(f"{where}: unknown algorithm {algorithm!r}: {did_you_mean(algorithm, KINDS)}")
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise InputError(f"{where}: {_first_mistake(problem, kind)}") from None


def _first_mistake(problem: ValidationError, kind: type[BaseModel]) -> str:
    error = problem.errors()[0]
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {did_you_mean(key, kind.model_fields)}"
    example = kind.model_fields[key].default if key in kind.model_fields else None
    hint = f", for example {key} = {json.dumps(example)}" if isinstance(example, int | float | str) and example != "" else ""
    said = error["msg"].removeprefix("Value error, ")
    given = f", not {error['input']!r}" if error["type"] != "missing" and key else ""
    return f"{f'key {key!r}: ' if key else ''}{said[0].lower()}{said[1:]}{given}{hint}"


def _reason(problem: Exception) -> str:
    return problem.strerror or str(problem) if isinstance(problem, OSError) else "not UTF-8 text"
