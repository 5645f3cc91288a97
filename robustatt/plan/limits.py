"""How long a sweep may take and how sure it is to be: `--time`, `--until`, `--against`. None decides a number of a record."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from robustatt.errors import InputError, did_you_mean, said_of
from robustatt.plan.checks import require_known, require_type

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
MAX_POINTS = 50.0


@dataclass(frozen=True)
class GateRule:
    """What a run is held against: the file of a reference, and the rule of `robustatt.results.gate.check`."""

    reference: str
    max_drop: float = 1.0
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 <= self.max_drop <= 100:
            raise InputError("--alpha must lie between 0 and 1, --max-drop between 0 and 100 points")

    @staticmethod
    def from_toml(value: object) -> GateRule | None:
        """From the key `against` of a plan: a file, or a table with key `reference`."""
        if value is None:
            return None
        if isinstance(value, str):
            return GateRule(value)
        require_type("against", value, dict, 'against = {reference = "reference.json", max_drop = 1.0}')
        assert isinstance(value, dict)
        with said_of("against"):
            require_known(value, ("reference", "max_drop", "alpha"))
            require_type("reference", value.get("reference"), str, 'reference = "reference.json"')
            numbers = {key: value[key] for key in ("max_drop", "alpha") if key in value}
            for key, number in numbers.items():
                require_type(key, float(number) if type(number) is int else number, float, f"{key} = 0.01")
        return GateRule(value["reference"], **numbers)


@dataclass(frozen=True)
class Limits:
    """Where a sweep that takes examples in random order stops: whichever comes first.

    `time`: as typed, such as "10m". `until`: a half-width in points that no interval exceeds, such as "2", or "2:MODEL/ATTACK"
    for the intervals of one curve. `against`: until the verdict of the gate is known.
    """

    time: str | None = None
    until: str | None = None
    against: GateRule | None = None

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
    def parse(time: str | float | None, until: str | float | None, against: GateRule | None = None) -> Limits | None:
        """From what a user wrote; None if nothing is limited. InputError for what is no time or half-width."""
        if time is None and until is None and against is None:
            return None
        return Limits(None if time is None else _text(time), None if until is None else _text(until), against)

    def to_toml(self) -> dict[str, Any]:
        """The keys of a plan."""
        keys = {"time": self.time, "until": self.until, "against": None if self.against is None else asdict(self.against)}
        return {key: value for key, value in keys.items() if value is not None}

    def over(self, other: Limits | None) -> Limits:
        """These limits, and where one is not given that of the other."""
        return (
            self if other is None else Limits(self.time or other.time, self.until or other.until, self.against or other.against)
        )

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
