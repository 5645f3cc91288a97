"""The user's request, checked: TOML or flags -> Plan -> Cells.

A `Plan` is a wish. Bound to a data set and to models it becomes a `BoundPlan`, which knows every `Cell` and key.
"""

from robustatt.plan.cells import EVALUATION_VERSION, BoundPlan, Cell, images_of
from robustatt.plan.entries import BUNDLED, ModelEntry, attack_entry, model_entries
from robustatt.plan.limits import Limits
from robustatt.plan.plan import Grids, Plan, parse_unit, radii_by_attack, read_plan
from robustatt.plan.rounds import Rounds
from robustatt.plan.saved_images import CellImages, SavedImages

__all__ = [
    "BUNDLED", "EVALUATION_VERSION", "BoundPlan", "Cell", "CellImages", "Grids", "Limits", "ModelEntry", "Plan", "Rounds", "SavedImages",
    "attack_entry", "images_of", "model_entries", "parse_unit", "radii_by_attack", "read_plan",
]  # fmt: skip
