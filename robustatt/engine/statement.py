"""What was found out about a results folder: one statement for each thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass

TRUE, FALSE, UNKNOWN = "true", "false", "not checked"

MARGIN_TOLERANCE = 1e-3
"""How far a margin may lie from the recorded one, in shares of the largest: kernels of other machines and batch sizes
round differently, by some 1e-6."""


@dataclass(frozen=True)
class Statement:
    """One thing that was looked at: what, whether it is true, and what was found."""

    what: str
    verdict: str
    finding: str
