"""Attacks of other libraries, which may not do what the recipe around them says. Without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustatt.eps import parse_radius
from robustatt.health.outcome import Outcome
from robustatt.health.warning import Warning

if TYPE_CHECKING:
    import pandas as pd

USED = 0.5
"""The share of the radius that nine tenths of the failed images stay below."""

LEAST = 5
"""Failed images that are needed to say so."""


def unused_ball(outcome: Outcome, records: pd.DataFrame) -> Iterator[Warning]:
    """Another library's attack whose failed images lie deep inside the ball at the largest radius."""
    if not outcome.foreign or outcome.kind == "control":
        return
    eps, text = max((float(parse_radius(text)), text) for text in outcome.grid.eps)
    rows = records[
        (records["model"] == outcome.grid.model) & (records["attack"] == outcome.name) & (records["eps"] == text)
    ]
    failed = rows[rows["attacked"] & (rows["adv_pred"] == rows["label"]) & (rows["distance"] > 0)]["distance"]
    if len(failed) >= LEAST and float(failed.quantile(0.9)) < USED * eps:
        yield Warning(
            "ball-unused",
            f"at {text} the images that {outcome.name} could not break use at most {float(failed.max()) / eps:.0%} of the "
            f"{outcome.norm} ball of that radius: it works with another norm or radius than the recipe says. Set norm in "
            "the recipe, and give arguments that grow with eps under [shares].",
            outcome.grid.model,
            outcome.name,
            {"used": float(failed.max()) / eps, "of": len(failed)},
        )
