"""Attacks without a norm (`norm = "none"`): one accuracy over the whole box, and how far their images went. Without torch.

Records write their radius as 255/255: the L-infinity ball of that radius holds every image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustatt.eps import NORM_TITLES, WHOLE_BOX

if TYPE_CHECKING:
    import pandas as pd

DISTANCES = {"linf": "distance", "l2": "distance_l2", "l1": "distance_l1"}
"""The columns of records that hold the distances of an attack without a norm."""


def is_unbounded(curve: Mapping[str, Any]) -> bool:
    """Whether a curve of the summary is that of an attack without a norm."""
    return curve.get("norm") == "none"


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


def rows_of(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A table of the attacks without a norm: heads and rows; no rows if there were none."""
    heads = ["model", "attack", "clean", "under attack [95 % interval]", "median linf", "median l2", "median l1"]
    rows = []
    for curve in filter(is_unbounded, summary["curves"]):
        points = {point["eps"]: point for point in curve["points"]}
        point, clean = points.get(WHOLE_BOX), points.get("0/255")
        if point is None:
            continue
        low, high = 100 * point["ci_low"], 100 * point["ci_high"]
        far = [curve.get("distances", {}).get(norm, {}).get("median") for norm in DISTANCES]
        rows.append([
            str(curve["model"]), str(curve["attack"]), "-" if clean is None else f"{100 * clean['accuracy']:.1f}",
            f"{100 * point['accuracy']:.1f} [{low:.1f}, {high:.1f}]", *("-" if value is None else f"{value:.3g}" for value in far),
        ])  # fmt: skip
    return heads, rows


def bounded(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without the attacks that have no norm, for everything that has an axis of radii."""
    return _without(summary, {str(curve["attack"]) for curve in filter(is_unbounded, summary["curves"])})


def norm_of(curve: Mapping[str, Any]) -> str:
    """The norm of a curve's attack."""
    return str(curve.get("norm") or "linf")


def norms_of(summary: Mapping[str, Any]) -> list[str]:
    """The norms that have an axis of radii, in the order of `NORM_TITLES`."""
    present = {norm_of(curve) for curve in summary["curves"]}
    return [norm for norm in NORM_TITLES if norm in present]


def of_norm(summary: Mapping[str, Any], norm: str) -> dict[str, Any]:
    """The summary of the attacks of one norm: norms share no axis, and none is stronger than one of another."""
    return _without(summary, {str(curve["attack"]) for curve in summary["curves"] if norm_of(curve) != norm})


def _without(summary: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    if not names:
        return dict(summary)
    plan = dict(summary.get("plan") or {})
    plan["attacks"] = [
        entry for entry in plan.get("attacks") or []
        if (entry.get("name") if isinstance(entry, Mapping) else entry) not in names
    ]  # fmt: skip
    keys = ("curves", "drift", "drift_predicts_fooling", "differences", "confusion")
    kept = {key: [row for row in summary.get(key) or [] if row["attack"] not in names] for key in keys}
    return {**summary, **kept, "plan": plan}
