"""Which models examples are crafted on to be tested on all the others, and by which attacks."""

from __future__ import annotations

from collections.abc import Sequence

from robustatt.attack.recipe import NO_ADVERSARIES, Recipe
from robustatt.errors import InputError
from robustatt.plan.checks import require_unique
from robustatt.plan.entries import ModelEntry

MAX_TARGETS = 64
"""More models are not tested in one Cell, whose records are one file."""
ALL = "all"
"""Named among the surrogates, it stands for every model of the plan."""


def resolved(surrogates: Sequence[ModelEntry], models: Sequence[ModelEntry]) -> tuple[ModelEntry, ...]:
    """The surrogates themselves: a name alone that a model of the plan has means that model.

    Raises:
        InputError: `all` for one model, a name twice, or a name that a model of the plan has for something else.
    """
    require_unique("surrogate", [entry.name for entry in surrogates])
    if surrogates and len(models) > MAX_TARGETS:
        raise InputError(f"--surrogate: {len(models)} models are too many to test its images on: give at most {MAX_TARGETS}")
    known = {entry.name: entry for entry in models}
    found: dict[str, ModelEntry] = {}
    for entry in surrogates:
        if entry.name == ALL:
            if len(models) == 1:
                raise InputError(f"--surrogate {ALL}: there is one model alone; give another --model, or name the surrogate")
            found = known | found
        elif entry.name in known and entry not in (known[entry.name], ModelEntry(entry.name, entry.name)):
            raise InputError(
                f"surrogate {entry.name!r} is another model than the one of that name: give it a label, such as other={entry.spec}"
            )
        else:
            found[entry.name] = known.get(entry.name, entry)
    return tuple(found.values())


def can_be_crafted(recipe: Recipe) -> bool:
    """Whether an attack makes an image for every radius, as strong as it can: what transfer needs.

    Not those that look for the nearest mistake, chains (each part sees what the others left), attacks without a norm, nor
    what is no adversary.
    """
    usual = recipe.category not in ("minimum-norm", *NO_ADVERSARIES)
    return usual and not recipe.parts() and not recipe.unbounded


def require_some_craft(attacks: Sequence[Recipe]) -> None:
    """At least one attack can be crafted on a surrogate."""
    if not any(map(can_be_crafted, attacks)):
        names = ", ".join(entry.name for entry in attacks)
        raise InputError(
            f"--surrogate: {names} cannot be crafted on one; add an attack that has an image for each radius, such as --attack pgd"
        )


def for_transfer(recipe: Recipe) -> str:
    """What an attack is called where its images are tested on other models."""
    return f"{recipe.name} for transfer"
