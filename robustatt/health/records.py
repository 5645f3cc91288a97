"""What the outcome of a sweep gives away: attacks that contradict each other, curves that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustatt.attack.recipe import Recipe
from robustatt.attack.recipe_files import load as load_recipe
from robustatt.attack.recipe_files import shipped
from robustatt.eps import NORM_TITLES, parse_radius
from robustatt.health.chains import black_box_part
from robustatt.health.comparisons import (
    black_box,
    clearly,
    noise,
    too_few,
    unconverged,
    weaker,
)
from robustatt.health.foreign import left_the_ball, unused_ball
from robustatt.health.labels import label_order, like_chance
from robustatt.health.outcome import AttackOutcome
from robustatt.health.transfer import crafted_elsewhere, transfer_stronger
from robustatt.health.warning import ZERO_GRADIENT_SHARE, HealthWarning
from robustatt.results import statistics
from robustatt.results.outcomes import outcomes_by_curve

if TYPE_CHECKING:
    import pandas as pd

RISE, OVERSHOOT = 0.05, 0.10
"""Points by which accuracy must rise with the radius. One step of a large size overshoots on healthy
networks too, by a few points, so single steps (and attacks of other libraries, which may be such) are
allowed twice as much."""

USUAL_RADII = {"linf": (0.5 / 255, 0.25), "l2": (0.05, 3.0), "l1": (0.5, 50.0)}
"""Below the first nothing can be seen, whatever the model: half an 8-bit step; an eighth of the smallest radius of the
literature. Beyond the second a trained network has no image left that means anything, unless it was trained for it."""

UNIT_ADVICE = {
    "linf": "counted in steps of 1/255: 8/255 or 8 means eight of them. Was a radius divided by 255 twice, or not at all?",
    "l2": "plain numbers in the scale of pixels in [0, 1], such as 0.5: were these meant as steps of 1/255?",
    "l1": "plain numbers in the scale of pixels in [0, 1], such as 12: were these meant as steps of 1/255?",
}

MIN_JUDGED = 5
"""Images that must all be broken at the smallest radius before it is called large."""

PLAIN_SATURATION = 16.64
"""Margin (24 ln 2) above which the true class's probability is 1 in float32 and cross-entropy's gradient
at best noise."""


def check_records(
    records: pd.DataFrame, recipes: Sequence[Recipe] = (), transfer: pd.DataFrame | None = None
) -> list[HealthWarning]:
    """What the outcome itself gives away.

    Args:
        records: a row for each model, attack, radius and example.
        recipes: of the attacks that were run; shipped recipes are known by name.
        transfer: the same rows for examples that were crafted on surrogates.
    """
    if records.empty:
        return []
    known = {recipe.name: recipe for recipe in recipes}
    crafted = crafted_elsewhere(transfer, lambda name: known.get(name) or _shipped(name))
    by_model: dict[str, list[AttackOutcome]] = {}
    found = list(_zero_gradient(records))
    for grid in outcomes_by_curve(records):
        by_model.setdefault(grid.model, []).append(AttackOutcome.of(grid, known.get(grid.attack) or _shipped(grid.attack)))
    for model, outcomes in by_model.items():
        first = outcomes[0].outcomes
        found += [entry for entry in [label_order(first.label, first.clean_pred, model)] if entry]
        found += like_chance(first)
        usable = [entry for entry in outcomes if len(entry.index) and entry.eps]
        elsewhere: set[str] = set()  # attacks that left the ball: what they missed inside it says nothing
        for outcome in usable:
            left = list(left_the_ball(outcome, records))
            found += [
                *(left or unused_ball(outcome, records)),
                *_rising(outcome),
                *_unit(outcome),
                *_half(outcome),
                *_saturated(outcome, records),
                *black_box_part(outcome, clearly),
            ]
            elsewhere |= {outcome.name} if left else set()
        usable = [entry for entry in usable if entry.name not in elsewhere]
        found += [*weaker(usable), *black_box(usable), *noise(usable), *unconverged(usable)]
        found += transfer_stronger(usable, crafted.get(model, ()))
    found += too_few([entry for outcomes in by_model.values() for entry in outcomes])
    return found


def _shipped(name: str) -> Recipe | None:
    return load_recipe(name) if name in shipped() else None


def _zero_gradient(records: pd.DataFrame) -> Iterator[HealthWarning]:
    attacked = records[(records["eps"] != "0/255") & (records["label"] == records["clean_pred"])]
    for (model, attack), rows in attacked.groupby(["model", "attack"], sort=False):
        share = float(rows["zero_grad"].mean())
        if share > ZERO_GRADIENT_SHARE:
            yield HealthWarning(
                "zero-gradient",
                f"for {share:.1%} of the attacked images the gradient was exactly zero, so the attack had "
                "nothing to follow and what it could not break says nothing.",
                "Look for rounding, detached tensors or saturation in the model, and run a black-box attack.",
                str(model),
                str(attack),
                {"share": share},
            )


def _rising(outcome: AttackOutcome) -> Iterator[HealthWarning]:
    """A rise over any smaller radius that the exact McNemar test does not give to chance (p < 0.001 over
    all radii)."""
    if outcome.control:
        return
    floor = RISE if outcome.iterative else OVERSHOOT
    accuracy = 1 - outcome.broken.mean(0)
    rises = [(accuracy[j] - accuracy[:j].min(), int(accuracy[:j].argmin()), j) for j in range(1, len(accuracy))]
    rise, low, high = max(rises, default=(0.0, 0, 0))
    if rise < floor:
        return
    back = int((outcome.broken[:, low] & ~outcome.broken[:, high]).sum())
    lost = int((~outcome.broken[:, low] & outcome.broken[:, high]).sum())
    if float(statistics.mcnemar_exact(back, lost)) * len(accuracy) < 1e-3:
        eps = [text for text in outcome.outcomes.eps if parse_radius(text) > 0]
        several = outcome.iterative
        remedy = "take smaller steps, or apgd-ce" if several else "run an iterative attack (pgd, apgd-ce)"
        yield HealthWarning(
            "accuracy-rising",
            f"accuracy under {outcome.name} is {rise:.1%} higher at {eps[high]} than at the smaller radius "
            f"{eps[low]}: what was broken in a ball is broken in every larger one, so the attack fails to "
            f"find it.",
            f"Read worst_case_accuracy, and {remedy}.",
            outcome.outcomes.model,
            outcome.name,
            {"rise": float(rise), "eps_low": outcome.eps[low], "eps_high": outcome.eps[high]},
        )


def _unit(outcome: AttackOutcome) -> Iterator[HealthWarning]:
    """Radii that are all far too small or far too large for their norm: most likely counted in another unit."""
    if outcome.control or outcome.recipe is None or outcome.recipe.unbounded:
        return
    low, high = USUAL_RADII[outcome.norm]
    smallest, largest, unit = min(outcome.eps), max(outcome.eps), UNIT_ADVICE[outcome.norm]
    if largest < low and outcome.broken.mean() < 0.02:
        finding = f"the largest radius is {largest:.2g} and next to nothing is broken there: too small to mean anything"
    elif smallest > high and len(outcome.index) >= MIN_JUDGED and outcome.broken[:, 0].all():
        finding = f"the smallest radius is {smallest:.3g} and all of {len(outcome.index)} images are broken there already"
    else:
        return
    yield HealthWarning(
        "eps-unit",
        f"{finding}.",
        f"{NORM_TITLES[outcome.norm]} radii are {unit}",
        outcome.outcomes.model,
        outcome.name,
        {"smallest_eps": smallest, "largest_eps": largest, "broken": float(outcome.broken.mean())},
    )


def _half(outcome: AttackOutcome) -> Iterator[HealthWarning]:
    """At 0.5 every ball holds the same grey image, which has one prediction: no classifier is right on
    more than one class. So anything above the share of the largest class is proof that the attack failed."""
    far = [i for i, eps in enumerate(outcome.eps) if eps >= 0.5]
    if outcome.norm != "linf" or not outcome.iterative or not far:
        return
    right = (outcome.outcomes.clean_pred == outcome.outcomes.label) & outcome.outcomes.present.all(1)
    label = outcome.outcomes.label[right]
    held, most = int((~outcome.broken[:, far]).sum(0).min()), int(np.bincount(label).max())
    if held > most:
        yield HealthWarning(
            "not-broken-at-half",
            f"{held} of {len(label)} images are still classified right at radius "
            f"{min(outcome.eps[i] for i in far):.2g}, where each may be turned into the same grey image and "
            f"no classifier is right on more than one class ({most} images).",
            f"So {outcome.name} fails on this model, at smaller radii too: run a black-box attack (square).",
            outcome.outcomes.model,
            outcome.name,
            {"held": held, "possible": most, "of": len(label)},
        )


def _saturated(outcome: AttackOutcome, records: pd.DataFrame) -> Iterator[HealthWarning]:
    """Only where an attack that climbs plain cross-entropy was run: the stable loss does not mind."""
    if getattr(outcome.recipe, "loss", "") != "ce":
        return
    rows = records[
        (records["model"] == outcome.outcomes.model) & (records["attack"] == outcome.name) & (records["eps"] == "0/255")
    ]
    share = float((rows["clean_margin"] > PLAIN_SATURATION).mean()) if len(rows) else 0.0
    if share > ZERO_GRADIENT_SHARE:
        yield HealthWarning(
            "saturation",
            f"for {share:.1%} of the images the probability of the true class is 1 in float32, where "
            f"cross-entropy, which {outcome.name} climbs, has no gradient left: robustness is overstated.",
            'Use loss = "stable".',
            outcome.outcomes.model,
            outcome.name,
            {"share": share},
        )
