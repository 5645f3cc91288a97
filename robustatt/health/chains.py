"""Chains of attacks: did the black-box part break what the gradient parts could not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustatt.eps import parse_radius
from robustatt.health.outcome import AttackOutcome
from robustatt.health.warning import HealthWarning
from robustatt.results.chains import parts_of


def black_box_part(outcome: AttackOutcome, clearly: Callable[[int, int], bool]) -> Iterator[HealthWarning]:
    """At the radius where the black-box parts of a chain broke most of what no gradient part before them had broken."""
    parts = parts_of(outcome.recipe)
    blind = [name for name, recipe in parts.items() if recipe.category == "black-box"]
    if outcome.outcomes.broken_by is None or not blind or len(blind) == len(parts):
        return
    right = (outcome.outcomes.clean_pred == outcome.outcomes.label) & outcome.outcomes.present.all(1)
    columns = [i for i, text in enumerate(outcome.outcomes.eps) if parse_radius(text) > 0]
    counts = {i: sum(int((outcome.outcomes.broken_by[right, i] == name).sum()) for name in blind) for i in columns}
    radius = max(columns, key=lambda i: counts[i])
    if clearly(counts[radius], len(outcome.index)):
        names, text = " and ".join(blind), outcome.outcomes.eps[radius]
        yield HealthWarning(
            "black-box-stronger",
            f"at {text} {names}, which sees no gradient, breaks {counts[radius]} of {len(outcome.index)} images that no "
            f"gradient attack of {outcome.name} broke: the gradients are masked, and the number may fall further.",
            "Attack a "
            "smooth stand-in of the layer that hides them (BPDA, Athalye et al. 2018), or give the black-box attack more "
            "queries.",
            outcome.outcomes.model,
            outcome.name,
            {"missed": counts[radius], "of": len(outcome.index), "eps": float(parse_radius(text))},
        )
