"""Training of the networks: from a request to a checkpoint with its card, by one process or several.

Torch is imported when something is trained: the command line reads its flags off the request.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from robustatt.train.request import TrainRequest

if TYPE_CHECKING:
    from robustatt.train.card import channel_statistics, start_from
    from robustatt.train.images import adversarial_images, augment
    from robustatt.train.loop import train
    from robustatt.train.schedule import learning_rate

_PLACES = {
    "adversarial_images": "images", "augment": "images", "channel_statistics": "card", "learning_rate": "schedule",
    "start_from": "card", "train": "loop",
}  # fmt: skip

__all__ = [
    "TrainRequest", "adversarial_images", "augment", "channel_statistics", "learning_rate", "start_from", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'robustatt.train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustatt.train.{_PLACES[name]}"), name)
