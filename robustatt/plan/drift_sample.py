"""Which attacks and how many examples serve to measure drift at full strength.

A sweep attacks an example only near the radius where it breaks, and stops at the first success: accuracy needs no more. Its
images are those that have only just been broken, so their drift says little about what a whole ball can do to a map. For that
an attack runs to its last step at every radius, on a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustatt.attack import recipe_files
from robustatt.attack.recipe import ExternalRecipe, Recipe

Radii = tuple[str, ...]

MAX_EXAMPLES = 100
"""More are only measured if they are asked for: the interval of a mean is narrow enough."""
MIN_EXAMPLES = 10
CONTROL = "sign-noise"
GRADIENTS_PER_EXAMPLE = 20
"""The default size of the sample keeps its gradients to about so many for each example of the sweep, half of what a
search of a threshold takes."""


@dataclass(frozen=True)
class DriftSample:
    """`count` of the first `population` examples of a data set, drawn by a seed, classes in proportion."""

    count: int
    population: int


def measured_attacks(attacks: Sequence[tuple[Recipe, Radii]]) -> list[tuple[Recipe, Radii]]:
    """The attacks that are run again at full strength for their drift, each with its radii: native ones in several steps.

    Single steps and controls are at full strength in every sweep. Where attacks in L-infinity have no control beside them,
    random signs join. Attacks that look for the nearest mistake or know only the labels, chains, and other libraries' attacks
    are not measured.
    """
    chosen = [(recipe, radii) for recipe, radii in attacks if radii and _in_several_steps(recipe)]
    signed = next((radii for recipe, radii in chosen if recipe.norm == "linf"), None)
    controlled = any(recipe.category == "control" and recipe.norm == "linf" for recipe, _ in attacks)
    if signed is not None and not controlled and CONTROL not in {recipe.name for recipe, _ in attacks}:
        chosen.append((recipe_files.load(CONTROL), signed))
    return chosen


def _in_several_steps(recipe: Recipe) -> bool:
    return (
        recipe.category == "iterative" and not recipe.to_the_end and not isinstance(recipe, ExternalRecipe) and not recipe.parts()
    )


def sample_size(attacks: Sequence[tuple[Recipe, Radii]], examples: int, wanted: int | None) -> int:
    """How many examples are measured.

    Args:
        attacks: the attacks that are measured, each with its radii.
        examples: how many the sweep attacks.
        wanted: the user's number; None: at most `MAX_EXAMPLES`, and fewer where that would cost much more than the sweep.
    """
    if wanted is not None or not attacks:
        return min(wanted or 0, examples) if attacks else 0
    cost = max(gradients_of(recipe, len(radii)) for recipe, radii in attacks)
    affordable = GRADIENTS_PER_EXAMPLE * examples // max(1, cost)
    return min(examples, MAX_EXAMPLES, max(MIN_EXAMPLES, affordable))


def at_full_strength(recipe: Recipe) -> str:
    """What an attack is called where it runs to its last step."""
    return f"{recipe.name} at full strength"


def gradients_of(recipe: Recipe, radii: int) -> int:
    """Gradients of one example over all radii, each at full strength."""
    gradients, _ = recipe.cost()
    return gradients if recipe.one_run else gradients * radii
