"""Where models look against where the object is: weakly supervised segmentation, clean and under attack.

``segment(SegmentRequest(...))`` measures; ``write(result, folder)`` writes ``segment.json``, ``images.parquet``,
``segment.md`` and figures. Nothing here is trained on masks: a mask only judges, and a fifth of them, which is then
not reported on, chooses one threshold a method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustatt.studies.segment.request import SegmentRequest
    from robustatt.studies.segment.run import Localisation, segment, write

__all__ = ["Localisation", "SegmentRequest", "segment", "write"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(name)
    from robustatt.studies.segment import request, run

    return getattr(request if name == "SegmentRequest" else run, name)
