"""The paper's networks by name, their checkpoints and cards, and the loading of external networks.

What is listed is imported when it is used, so that names, cards and what is known of a family are read without torch. No
module may bear the name of something listed: it would take its place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustatt.models.attention import Network
    from robustatt.models.card import Card, read_card
    from robustatt.models.checkpoint import load, load_checkpoint, save_checkpoint
    from robustatt.models.families import canonical, names
    from robustatt.models.listing import bundled, bundled_cards, bundled_path, catalogue
    from robustatt.models.registry import build
    from robustatt.models.resolution import ResolvedModel, resolve, resolve_entry

_MODULES = {
    "attention": ("Network",),
    "card": ("Card", "read_card"),
    "listing": ("bundled", "bundled_cards", "bundled_path", "catalogue"),
    "checkpoint": ("load", "load_checkpoint", "save_checkpoint"),
    "families": ("canonical", "names"),
    "registry": ("build",),
    "resolution": ("ResolvedModel", "resolve", "resolve_entry"),
}
__all__ = [
    "Card", "Network", "ResolvedModel", "build", "bundled", "bundled_cards", "bundled_path", "canonical", "catalogue", "load",
    "load_checkpoint", "names", "read_card", "resolve", "resolve_entry", "save_checkpoint",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names_there in _MODULES.items():
        if name in names_there:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
