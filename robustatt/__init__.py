"""robustatt: how robust an image classifier is, and where its attention goes under attack.

Nothing heavy is imported until it is used, so that ``robustatt --help`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustatt.version import __version__

__all__ = ["__version__", "attention_maps", "data", "load_result", "models", "sweep"]

if TYPE_CHECKING:
    from robustatt import data, models
    from robustatt.api import load_result, sweep
    from robustatt.evaluate.attend import attention_maps


def __getattr__(name: str) -> Any:
    if name in {"sweep", "load_result"}:
        return getattr(importlib.import_module("robustatt.api"), name)
    if name == "attention_maps":
        from robustatt.evaluate.attend import attention_maps

        return attention_maps
    if name in {"data", "models"}:
        return importlib.import_module(f"robustatt.{name}")
    raise AttributeError(f"module 'robustatt' has no attribute {name!r}")
