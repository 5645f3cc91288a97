"""Which recipe an algorithm has, by its name."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import get_args

from robustatt.attack import gradient_recipes, native_recipes
from robustatt.attack.recipe import Recipe

ALGORITHMS: dict[str, type[Recipe]] = {
    name: recipe
    for module in (gradient_recipes, native_recipes)
    for recipe in vars(module).values()
    if isinstance(recipe, type) and issubclass(recipe, Recipe) and recipe.__module__ == module.__name__
    for name in get_args(recipe.model_fields["algorithm"].annotation)
}
"""The recipe of each native algorithm. One that is not here is looked for in a module of its name, see `algorithm`."""

LIBRARIES = ("torchattacks", "foolbox")


def algorithm(name: str) -> type[Recipe] | None:
    """The recipe of a native algorithm; None if there is none.

    `ALGORITHMS` holds those whose recipe stands here. Any other is looked for in the module of this package that bears its
    name (`my-attack` in my_attack.py): the one recipe that it defines for this algorithm.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    module = f"{__package__}.{name.replace('-', '_')}"
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or find_spec(module) is None:
        return None
    members = [member for member in vars(import_module(module)).values() if isinstance(member, type)]
    own = [member for member in members if issubclass(member, Recipe) and member.__module__ == module]
    return next((recipe for recipe in own if name in get_args(recipe.model_fields["algorithm"].annotation)), None)
