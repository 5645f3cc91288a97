"""How long a sweep may take and how sure it is to be: `--time` and `--until`. Neither decides a number of a record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from robustatt.errors import InputError, did_you_mean

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
MAX_POINTS = 50.0


@dataclass(frozen=True)
class Limits:
    """Where a sweep that takes examples in random order stops: whichever comes first.

    `time`: as typed, such as "10m". `until`: a half-width in points that no interval exceeds, such as "2", or "2:MODEL/ATTACK"
    for the intervals of one curve.
    """

    time: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.time is not None and not (_DURATION.fullmatch(self.time) and self.seconds):
            raise InputError(
                f"--time {self.time!r}: give a time above 0, such as 90s, 10m, 2h or 1h30m; a bare number is seconds"
            )
        if self.until is not None:
            number = self.until.partition(":")[0]
            if not re.fullmatch(r"\d+(\.\d+)?", number) or not 0 < float(number) < MAX_POINTS:
                raise InputError(
                    f"--until {self.until!r}: give half the width of an interval in points, above 0 and below {MAX_POINTS:g}, "
                    "such as 2, or 2:MODEL/ATTACK for one curve"
                )

    @staticmethod
    def parse(time: str | float | None, until: str | float | None) -> Limits | None:
        """From what a user wrote; None if nothing is limited. InputError for what is no time or half-width."""
        if time is None and until is None:
            return None
        return Limits(*(None if value is None else _text(value) for value in (time, until)))

    def over(self, other: Limits | None) -> Limits:
        """These limits, and where one is not given that of the other."""
        return self if other is None else Limits(self.time or other.time, self.until or other.until)

    @cached_property
    def seconds(self) -> float | None:
        """The time in seconds."""
        if self.time is None:
            return None
        parts = re.findall(r"([\d.]+)([smhd]?)", self.time)
        return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)

    @property
    def half_width(self) -> float | None:
        """Half the width that intervals may have, as a share."""
        return None if self.until is None else float(self.until.partition(":")[0]) / 100

    @property
    def curve(self) -> tuple[str, str] | None:
        """Model and attack whose intervals alone count; None for all."""
        model, slash, attack = (self.until or "").partition(":")[2].rpartition("/")
        return (model, attack) if slash else None

    def check(self, models: list[str], attacks: list[str]) -> None:
        """InputError if the curve that is named is not one of the sweep's."""
        if ":" not in (self.until or ""):
            return
        if self.curve is None:
            raise InputError(f"--until {self.until!r}: name the curve as MODEL/ATTACK, such as 2:{models[0]}/{attacks[0]}")
        for kind, name, known in zip(("model", "attack"), self.curve, (models, attacks), strict=True):
            if name not in known:
                raise InputError(f"--until {self.until!r}: {kind} {name!r} is not in this sweep: {did_you_mean(name, known)}")


def _text(value: str | float) -> str:
    return value.strip() if isinstance(value, str) else f"{value:.15g}"
