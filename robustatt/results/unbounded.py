"""Attacks without a norm (`norm = "none"`): one accuracy over the whole box, and how far their images went.

Records write their radius as 255/255: the L-infinity ball of that radius holds every image with pixels in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustatt.eps import WHOLE_BOX
from robustatt.results.part import in_percent

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.results.summary import Summary

DISTANCES = {"linf": "distance", "l2": "distance_l2", "l1": "distance_l1"}
"""The columns of records that hold the distances of an attack without a norm."""


def distances(records: pd.DataFrame, model: str, attack: str) -> dict[str, dict[str, float]]:
    """Median and largest distance, by norm, of the images that were attacked and broken; empty if none was."""
    rows = records[(records["model"] == model) & (records["attack"] == attack) & (records["eps"] == WHOLE_BOX)]
    rows = rows[rows["attacked"] & (rows["adv_pred"] != rows["label"])]
    if rows.empty:
        return {}
    return {
        norm: {"median": float(rows[column].median()), "largest": float(rows[column].max())}
        for norm, column in DISTANCES.items()
        if column in rows.columns
    }


def rows_of(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A table of the attacks without a norm: heads and rows; no rows if there were none."""
    heads = ["model", "attack", "clean", "under attack [95 % interval]", "median linf", "median l2", "median l1"]
    rows = []
    for curve in summary.curves:
        points = {point.eps: point for point in curve.points}
        point, clean = points.get(WHOLE_BOX), points.get("0/255")
        if not curve.unbounded or point is None:
            continue
        far = [curve.distances.get(norm, {}).get("median") for norm in DISTANCES]
        rows.append([
            curve.model, curve.attack, "-" if clean is None else f"{100 * clean.accuracy:.1f}",
            in_percent(point.accuracy, point.ci_low, point.ci_high),
            *("-" if value is None else f"{value:.3g}" for value in far),
        ])  # fmt: skip
    return heads, rows
