"""The words for maps: what is measured between two of them, and which are attention and which saliency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["attention", "saliency"]

GRADCAM = "gradcam"
"""The level of a network without attention: Grad-CAM, in columns such as ``drift_js_gradcam``."""


ROLLOUT = "rollout"
"""The level that multiplies all blocks of a transformer."""

MANY_LEVELS = 12


@dataclass(frozen=True)
class DriftMetric:
    """A measure of drift between the map of a clean image and that of its attacked one."""

    title: str
    unit: str
    unmoved: float
    """Its value between a map and itself."""
    least: float = 0.0
    most: float = math.inf


DRIFT_METRICS: dict[str, DriftMetric] = {
    "js": DriftMetric("Jensen-Shannon divergence", "base 2, from 0 (same map) to 1 (disjoint)", 0.0, most=1.0),
    "cosine": DriftMetric("Cosine similarity", "1 for the same direction, 0 for nothing in common", 1.0, most=1.0),
    "shift": DriftMetric("Shift of the centre of mass", "pixels of the input image", 0.0),
    "iou": DriftMetric(
        "Overlap of the top 20 %", "intersection over union of the most attended fifth, 1 for the same", 1.0, most=1.0
    ),
    "entropy": DriftMetric(
        "Change of entropy", "bits, attacked minus clean: above 0 means more spread out", 0.0, least=-math.inf
    ),
}
"""By the name in the records' columns."""


def kind_of(level: str) -> Kind:
    """Whether the maps of a level are attention, which decides what the classifier sees, or saliency."""
    return "saliency" if level == GRADCAM else "attention"


def level_title(level: str) -> str:
    """A level as figures name it."""
    if level == GRADCAM:
        return "Grad-CAM"
    for start, word in (("l", "Level"), ("block", "Block")):
        if level.startswith(start) and level[len(start) :].isdigit():
            return f"{word} {level[len(start) :]}"
    return "Rollout" if level == ROLLOUT else level


def shown_levels(levels: Sequence[str]) -> list[str]:
    """The levels that figures show side by side: all, or of `MANY_LEVELS` and more the first, middle, last and the rollout."""
    depth = [level for level in levels if level != ROLLOUT]
    if len(depth) < MANY_LEVELS:
        return list(levels)
    some = {depth[0], depth[(len(depth) - 1) // 2], depth[-1], ROLLOUT}
    return [level for level in levels if level in some]


def map_title(level: str) -> str:
    """A level's maps under a name that says which kind they are."""
    title = level_title(level)
    return f"{title} saliency" if kind_of(level) == "saliency" else f"Attention {title[:1].lower()}{title[1:]}"
