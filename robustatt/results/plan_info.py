"""The plan as a summary holds it: data, models and attacks, and what they were bound to."""

from __future__ import annotations

from functools import cached_property

from robustatt.attack import recipe_files
from robustatt.attack.recipe import Category, Recipe
from robustatt.errors import InputError
from robustatt.results.part import Count, Part, Radius


class DataInfo(Part):
    """The data set of a run; `n` is the number of examples that were attacked."""

    name: str = ""
    split: str = ""
    fingerprint: str = ""
    n: Count | None = None
    classes: list[str] = []


class ModelInfo(Part):
    """A model of the plan."""

    name: str
    spec: str = ""
    weights: str | None = None
    fingerprint: str = ""


class AttackInfo(Part):
    """An attack of the plan: its recipe's keys, and the recipe's fingerprint."""

    name: str
    algorithm: str = ""
    norm: str = "linf"

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe it was run by, or the shipped one of its name; None where this version knows neither."""
        keys = {key: value for key, value in self.as_dict().items() if key not in ("fingerprint", "radii")}
        try:
            return (
                recipe_files.parse(keys, f"attack {self.name}")
                if self.algorithm
                else recipe_files.read(recipe_files.shipped()[self.name])
            )
        except (InputError, KeyError):
            return None

    @property
    def category(self) -> Category:
        """What sort of attack it is; one that this version does not know counts as another library's."""
        return self.recipe.category if self.recipe is not None else "external"


class GateInfo(Part):
    """What a sweep in rounds is held against, and by which rule."""

    reference: str
    max_drop: float = 1.0
    alpha: float = 0.01


class RoundsInfo(Part):
    """Rounds of a random order: where each whole one ends, of how many examples, whose fingerprint in the order of the data is
    `whole`; and the limits, as typed."""

    ends: list[Count] = []
    of: Count
    whole: str = ""
    time: str | None = None
    until: str | None = None
    against: GateInfo | None = None

    @property
    def done(self) -> int:
        """The examples of the whole rounds."""
        return self.ends[-1] if self.ends else 0


class PlanInfo(Part):
    """The request, and what it was bound to."""

    data: DataInfo = DataInfo()
    models: list[ModelInfo] = []
    surrogates: list[ModelInfo] = []
    attacks: list[AttackInfo] = []
    eps: list[Radius] = []
    seed: int = 0
    evaluation: str = ""
    baseline: str | None = None
    rounds: RoundsInfo | None = None
    semantics: int | None = None

    def attack(self, name: str) -> AttackInfo:
        """The attack of that name; one that the plan does not list is known by its name alone."""
        return next((entry for entry in self.attacks if entry.name == name), AttackInfo(name=name))
