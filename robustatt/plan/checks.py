"""Rules that every request shares, each with its one error text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from robustatt.errors import InputError, did_you_mean


def require_seed(seed: int, bits: int = 63) -> None:
    """A seed is an integer of this many bits: 63, or fewer where a library takes no more."""
    if not 0 <= seed < 2**bits:
        raise InputError(f"--seed {seed}: give a whole number from 0 to {2**bits - 1}")


def require_at_least_one(flag: str, value: int | None, hint: str = "give at least 1") -> None:
    """A count that is given is at least 1."""
    if value is not None and value < 1:
        raise InputError(f"{flag} {value}: {hint}")


def require_number(
    flag: str,
    value: float | None,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> None:
    """A number that is given is finite and in a range: from `least`, or above `above`, to `most`, or below `below`."""
    if value is None or (math.isfinite(value) and least <= value <= most and above < value < below):
        return
    ends = {"at least": least, "above": above, "below": below, "at most": most}
    said = " and ".join(f"{name} {end:,}" for name, end in ends.items() if math.isfinite(end))
    raise InputError(f"{flag} {value}: give a number {said}")


def require_known(keys: Iterable[str], known: Iterable[str], of: str = "") -> None:
    """Every key of a table is known; `of` is what the table describes."""
    names = tuple(known)
    for key in keys:
        if key not in names:
            raise InputError(f"unknown key {key!r}{of}: {did_you_mean(key, names)}")


def require_type(key: str, value: object, kind: type, example: str) -> None:
    """The value of a key has its type; True is no whole number."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"key {key!r} has the wrong type: write for example {example}")


def require_choice(flag: str, value: str | None, known: Iterable[str]) -> None:
    """A choice that is made is one of those there are."""
    if value is not None and value not in known:
        raise InputError(f"{flag} {value!r}: {did_you_mean(value, known)}")


def require_one_choice(n: int | None, sample: int | None, what: str) -> None:
    """Either the first n or a random sample."""
    if n is not None and sample is not None:
        raise InputError(f"-n {n} and --sample {sample}: give the first N {what} or a sample, not both")


def require_some(values: Sequence[object], hint: str) -> None:
    """At least one."""
    if not values:
        raise InputError(hint)


def require_unique(kind: str, names: Sequence[str]) -> None:
    """Names are not empty, and none is given twice: results are told apart by them."""
    for name in names:
        if not name:
            raise InputError(f"a {kind} has an empty name")
        if names.count(name) > 1:
            hint = f": give each a label of its own, such as --model a={name} --model b={name}" if kind == "model" else ""
            raise InputError(f"{kind} {name!r} is given twice{hint}")
