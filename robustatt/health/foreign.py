"""Attacks of other libraries, which may not do what the recipe around them says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustatt.eps import CLEAN, parse_radius
from robustatt.health.outcome import AttackOutcome
from robustatt.health.warning import HealthWarning

if TYPE_CHECKING:
    import pandas as pd

USED = 0.5
"""The share of the radius that nine tenths of the failed images stay below."""

LEAST = 5
"""Failed images that are needed to say so."""


def unused_ball(outcome: AttackOutcome, records: pd.DataFrame) -> Iterator[HealthWarning]:
    """Another library's attack whose failed images lie deep inside the ball at the largest radius."""
    if not outcome.foreign or outcome.norm == "none":
        return
    eps, text = max((float(parse_radius(text)), text) for text in outcome.outcomes.eps)
    rows = records[(records["model"] == outcome.outcomes.model) & (records["attack"] == outcome.name) & (records["eps"] == text)]
    failed = rows[rows["attacked"] & (rows["adv_pred"] == rows["label"]) & (rows["distance"] > 0)]["distance"]
    if len(failed) >= LEAST and float(failed.quantile(0.9)) < USED * eps:
        yield HealthWarning(
            "ball-unused",
            f"at {text} the images that {outcome.name} could not break use at most {float(failed.max()) / eps:.0%} of the "
            f"{outcome.norm} ball of that radius: it works with another norm or radius than the recipe says.",
            "Set norm in the recipe, and give arguments that grow with eps under [shares].",
            outcome.outcomes.model,
            outcome.name,
            {"used": float(failed.max()) / eps, "of": len(failed)},
        )


def left_the_ball(outcome: AttackOutcome, records: pd.DataFrame) -> Iterator[HealthWarning]:
    """Another library's attack without a radius whose images lay outside the ball, at the largest radius where any did.

    Those of an attack that looks for the nearest mistake in this norm are not a finding: the evaluation calls such rows
    attacked, since nothing nearer was found.
    """
    if not outcome.foreign or "raw_distance" not in records.columns:
        return
    mine = (records["model"] == outcome.outcomes.model) & (records["attack"] == outcome.name)
    run = records[mine & (records["eps"] != CLEAN) & records["raw_distance"].notna()]
    outside = run[~run["attacked"]]
    if outside.empty:
        return
    eps, text = max((float(parse_radius(text)), text) for text in outside["eps"].unique())
    distance, of = outside[outside["eps"] == text]["raw_distance"], int((run["eps"] == text).sum())
    yield HealthWarning(
        "left-the-ball",
        f"at {text} {len(distance)} of {of} images that {outcome.name} made lie outside the {outcome.norm} ball of that "
        f"radius (median distance {float(distance.median()):.3g}, which is {float(distance.median()) / eps:.3g} radii; at most "
        f"{float(distance.max()):.3g}): it works in another threat model, its images were scaled back, and that they "
        'broke nothing says nothing.',
        'Write norm = "none" in its recipe to run it without a radius, or the norm that it '
        "minimises.",
        outcome.outcomes.model,
        outcome.name,
        {
            "outside": len(distance), "of": of, "eps": eps,
            "median": float(distance.median()), "largest": float(distance.max()),
        },
    )  # fmt: skip
