"""The paper's networks by name, their checkpoints and cards, and the loading of external networks."""

from __future__ import annotations

from robustatt.models.attention import Network
from robustatt.models.card import Card, read_card
from robustatt.models.catalogue import bundled_cards, catalogue
from robustatt.models.checkpoint import bundled, bundled_path, load, load_checkpoint, save_checkpoint
from robustatt.models.registry import build, canonical, names
from robustatt.models.resolve import ResolvedModel, resolve, resolve_entry

__all__ = [
    "Card",
    "Network",
    "ResolvedModel",
    "build",
    "bundled",
    "bundled_cards",
    "bundled_path",
    "canonical",
    "catalogue",
    "load",
    "load_checkpoint",
    "names",
    "read_card",
    "resolve",
    "resolve_entry",
    "save_checkpoint",
]
