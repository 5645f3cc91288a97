"""Which corruptions a plan evaluates, and where their images come from."""

from __future__ import annotations

from collections.abc import Sequence

from robustatt.attack.corruption import CorruptionRecipe, corruption_recipe
from robustatt.corruptions.kinds import chosen_kinds


def corruption_recipes(
    data: str, clean: str | None, kinds: Sequence[str] | None
) -> tuple[str, tuple[CorruptionRecipe, ...]]:
    """The data set of the clean images, and a recipe for each kind of corruption; None: those of the benchmark."""
    return data, tuple(corruption_recipe(kind) for kind in kinds or chosen_kinds(()))
