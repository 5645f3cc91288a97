"""Examples that were crafted on another model against what attacks on the model itself break."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustatt.attack.recipe import Recipe
from robustatt.health.comparisons import clearly, gradient_attacks, radius_text, together
from robustatt.health.outcome import AttackOutcome
from robustatt.health.warning import HealthWarning
from robustatt.results import statistics
from robustatt.results.outcomes import outcomes_by_curve

if TYPE_CHECKING:
    import pandas as pd

CHANCE = 1e-3
"""Exact McNemar p-value, times the number of comparisons of the model, below which a difference is not given to chance."""

Crafted = tuple[str, AttackOutcome]
"""A surrogate, and how a model fares on its examples."""


def crafted_elsewhere(transfer: pd.DataFrame | None, recipe_of: Callable[[str], Recipe | None]) -> dict[str, list[Crafted]]:
    """By model, the outcomes on examples from other models than itself."""
    found: dict[str, list[Crafted]] = {}
    if transfer is None or transfer.empty:
        return found
    elsewhere = transfer[transfer["surrogate"] != transfer["model"]]
    for surrogate, rows in elsewhere.groupby("surrogate", sort=False):
        for outcomes in outcomes_by_curve(rows):
            found.setdefault(outcomes.model, []).append((str(surrogate), AttackOutcome.of(outcomes, recipe_of(outcomes.attack))))
    return found


def transfer_stronger(outcomes: Sequence[AttackOutcome], crafted: Sequence[Crafted]) -> Iterator[HealthWarning]:
    """The attacks on a model itself, all gradient attacks of a norm together if an iterative one was run, against those that were
    crafted on others: an attack that follows the model's own gradient should break more than one that never saw it.
    """
    for norm in dict.fromkeys(entry.norm for _, entry in crafted):
        own = together(gradient_attacks([entry for entry in outcomes if entry.norm == norm]))
        rivals = [(name, entry) for name, entry in crafted if entry.norm == norm and entry.untargeted]
        if own is not None and (found := _strongest(own, rivals)) is not None:
            yield found


def _strongest(own: AttackOutcome, crafted: Sequence[Crafted]) -> HealthWarning | None:
    """What breaks most of the images that the attacks on the model leave, unless chance would do as much."""
    tests = [
        (int((rival & ~mine).sum()), int((mine & ~rival).sum()), len(mine), radius, surrogate, entry.name)
        for surrogate, entry in crafted
        for radius, mine, rival in _paired(own, entry)
    ]  # fmt: skip
    alone, lost, of, eps, surrogate, attack = max(tests, key=lambda test: test[0] - test[1], default=(0, 0, 0, 0.0, "", ""))
    p = float(statistics.mcnemar_exact(alone, lost)) * len(tests)
    if not clearly(alone - lost, of) or p >= CHANCE:
        return None
    return HealthWarning(
        "transfer-stronger",
        f"at {radius_text(eps, own.norm)} {attack} crafted on {surrogate} breaks {alone} of {of} images that no gradient attack on "
        f"{own.outcomes.model} itself broke, and misses {lost} that those broke (exact McNemar, p = {min(p, 1):.1g} after Bonferroni's "
        "correction): its gradients are masked.",
        "Believe the worst case over both, and attack a smooth stand-in of the layer that hides the gradient (BPDA, Athalye et al. 2018).",
        own.outcomes.model,
        attack,
        {"missed": alone, "lost": lost, "of": of, "eps": eps, "p": p},
    )


def _paired(own: AttackOutcome, rival: AttackOutcome) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """At each radius of both, which of the same images each breaks."""
    _, mine, theirs = np.intersect1d(own.index, rival.index, return_indices=True)
    for column, radius in enumerate(rival.eps):
        if radius in own.eps and len(mine):
            yield radius, own.broken[mine, own.eps.index(radius)], rival.broken[theirs, column]
