"""Where a network looks: its own protocol, the attention of a transformer, or gates, read in its forward pass."""

from __future__ import annotations

from robustatt.attention.find import AttentionReader, Heads, Own, find
from robustatt.attention.protocol import Maps

__all__ = ["AttentionReader", "Heads", "Maps", "Own", "find"]
