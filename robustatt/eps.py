"""Radii as people write them: a grid such as ``1..16``, kept as exact fractions of the pixel range [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from robustatt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

STEP = Fraction(1, 255)
#: What a bare number counts in, by norm, as the literature writes radii; severities of corruptions count themselves.
UNITS = {"linf": STEP, "l2": Fraction(1), "l1": Fraction(1), "severity": Fraction(1)}
NORM_TITLES = {"linf": "L-infinity", "l2": "L2", "l1": "L1"}
#: The default grid of a norm.
DEFAULT_GRIDS = {"linf": "1..16", "l2": "0.25..2:0.25", "l1": "2..24:2", "severity": "1..5"}
#: The radius that the literature reports most, by norm.
HEADLINE_EPS = {"linf": "8/255", "l2": "0.5"}
MAX_RADII = 1024
GRAMMAR = (
    "write 1..16, 0..32:4, 1,2,4,8, 0.5 or 8/255 (L-infinity counts steps of 1/255, with --eps-unit 1 plain numbers; L2 and L1 "
    "count plain numbers)"
)


def parse_grid(text: str, unit: Fraction = STEP) -> tuple[Fraction, ...]:
    """The radii of a grid, ascending, without repeats, without 0 (clean is always evaluated anyway).

    Bare numbers count in `unit`; ``p/q`` is absolute. Raises InputError with the part that is wrong.
    """
    if not text.strip():
        raise InputError(f"--eps is empty: {GRAMMAR}")
    radii: set[Fraction] = set()
    for part in text.split(","):
        radii.update(_parse_part(part.strip(), unit))
        if len(radii) > MAX_RADII:
            raise InputError(f"--eps {text!r} asks for more than {MAX_RADII} radii: use a larger step, such as 0..255:5")
    return tuple(sorted(radii - {Fraction(0)}))


def _parse_part(part: str, unit: Fraction) -> list[Fraction]:
    if ".." not in part:
        return [_parse_number(part, unit)]
    ends, _, step_text = part.partition(":")
    first_text, _, last_text = ends.partition("..")
    first, last = _parse_number(first_text, unit), _parse_number(last_text, unit)
    step = _parse_number(step_text, unit) if step_text else unit
    if last < first:
        raise InputError(f"--eps {part!r} runs backwards: write {last_text}..{first_text}")
    if step <= 0:
        raise InputError(f"--eps {part!r} has a step of 0: write for example {ends}:2")
    if first < last < first + step:
        raise InputError(f"--eps {part!r} ends before its first step: give a smaller one, such as {ends}:{(last - first) / 4}")
    count = (last - first) // step + 1
    if count > MAX_RADII:
        raise InputError(f"--eps {part!r} asks for {count} radii, at most {MAX_RADII} are possible: use a larger step")
    return [first + i * step for i in range(count)]


def _parse_number(text: str, unit: Fraction) -> Fraction:
    text = text.strip()
    try:
        if "e" in text.lower():
            raise ValueError(text)
        value = _exact(text, unit)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--eps: {text[:64]!r} is not a radius: {GRAMMAR}") from None
    if value < 0:
        raise InputError(f"--eps: {text!r} is negative: a radius is 0 or more")
    return value


def parse_radius(text: str) -> Fraction:
    """One radius as records write it, such as ``8/255`` or ``0.5/255``, exactly."""
    try:
        return _exact(text, Fraction(1))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{text[:64]!r} is not a radius such as 8/255") from None


def _exact(text: str, unit: Fraction) -> Fraction:
    """A quotient, or a number of units. ValueError also for one that is long, or whose exponent takes hours to work out."""
    if len(text) > 64 or len(text.lower().partition("e")[2]) > 3 or "_" in text or text.count("/") > 1:
        raise ValueError(text)
    numerator, slash, denominator = text.partition("/")
    return Fraction(numerator) / Fraction(denominator) if slash else Fraction(numerator) * unit


def radius_values(texts: pd.Series) -> pd.Series:
    """Radii as records write them as numbers in the scale of pixels in [0, 1]."""
    numbers = {text: float(parse_radius(str(text))) for text in texts.unique()}
    return texts.astype(object).map(numbers).astype(float)


def format_radius(eps: Fraction, norm: str = "linf") -> str:
    """A radius as records write it, exactly: ``8/255`` or ``0.5/255`` for L-infinity, ``0.5`` for the other norms.

    A fraction such as ``1/3`` where no decimal is exact.
    """
    if norm != "linf":
        return _decimal(eps) or format_radius(eps)
    steps = _decimal(eps * 255)
    return f"{eps.numerator}/{eps.denominator}" if steps is None else f"{steps}/255"


def axis_value(text: str, norm: str) -> float:
    """Where a radius lies on an axis of its norm: in steps of 1/255 for L-infinity, plain for the others."""
    return float(parse_radius(text) / UNITS.get(norm, STEP))


def _decimal(value: Fraction) -> str | None:
    """The number as a decimal; None if none is exact."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return None
    digits = max(_power(value.denominator, 2), _power(value.denominator, 5))
    whole, below = divmod(value.numerator * 10**digits // value.denominator, 10**digits)
    return f"{whole}.{below:0{digits}}" if digits else str(whole)


def _power(number: int, prime: int) -> int:
    count = 0
    while number % prime == 0:
        number, count = number // prime, count + 1
    return count


CLEAN = format_radius(Fraction(0))
WHOLE_BOX = format_radius(Fraction(1))
"""The radius in the records of an attack without a norm: the L-infinity ball of 255/255 holds the whole box [0, 1]."""


def headline_radius(radii: Iterable[str], norm: str) -> str | None:
    """The radius that is shown first: that of the literature if it is among these, else the middle one above 0; None without any."""
    texts = {parse_radius(eps): eps for eps in radii}
    above = sorted(radius for radius in texts if radius > 0)
    wanted = parse_radius(HEADLINE_EPS.get(norm, "0"))
    return texts[wanted if wanted in above else above[len(above) // 2]] if above else None
