"""Radii as people write them: a grid such as ``1..16``, kept as exact fractions of the pixel range [0, 1]."""

from __future__ import annotations

from fractions import Fraction

from robustatt.errors import InputError

STEP = Fraction(1, 255)
MOST_RADII = 1024
GRAMMAR = "write 1..16, 0..32:4, 1,2,4,8, 0.5 or 8/255 (steps of 1/255; with --eps-unit 1 decimals in [0, 1])"


def parse_grid(text: str, unit: Fraction = STEP) -> tuple[Fraction, ...]:
    """The radii of a grid, ascending, without repeats, without 0 (clean is always evaluated anyway).

    Bare numbers count in `unit`; ``p/q`` is absolute. Raises InputError with the part that is wrong.
    """
    if not text.strip():
        raise InputError(f"--eps is empty: {GRAMMAR}")
    radii: set[Fraction] = set()
    for part in text.split(","):
        radii.update(_parse_part(part.strip(), unit))
        if len(radii) > MOST_RADII:
            raise InputError(
                f"--eps {text!r} asks for more than {MOST_RADII} radii: use a larger step, such as 0..255:5"
            )
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
    count = (last - first) // step + 1
    if count > MOST_RADII:
        raise InputError(f"--eps {part!r} asks for {count} radii, at most {MOST_RADII} are possible: use a larger step")
    return [first + i * step for i in range(count)]


def _parse_number(text: str, unit: Fraction) -> Fraction:
    text = text.strip()
    try:
        if len(text) > 64 or "e" in text.lower() or "_" in text:
            raise ValueError(text)
        numerator, slash, denominator = text.partition("/")
        if "/" in denominator:
            raise ValueError(text)
        value = Fraction(numerator) / Fraction(denominator) if slash else Fraction(numerator) * unit
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--eps: {text[:64]!r} is not a radius: {GRAMMAR}") from None
    if value < 0:
        raise InputError(f"--eps: {text!r} is negative: a radius is 0 or more")
    return value


def parse_radius(text: str) -> Fraction:
    """One radius as records write it, such as ``8/255`` or ``0.5/255``, exactly."""
    numerator, _, denominator = text.partition("/")
    try:
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{text[:64]!r} is not a radius such as 8/255") from None


def format_radius(eps: Fraction) -> str:
    """A radius as records write it: ``8/255``, ``0.5/255``; a fraction such as ``1/3`` where no decimal is exact."""
    steps = eps * 255
    rest = steps.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        return f"{eps.numerator}/{eps.denominator}"
    digits = max(_power(steps.denominator, 2), _power(steps.denominator, 5))
    whole, below = divmod(steps.numerator * 10**digits // steps.denominator, 10**digits)
    decimals = str(below).rjust(digits, "0").rstrip("0") if digits else ""
    return f"{whole}.{decimals}/255" if decimals else f"{whole}/255"


def _power(number: int, prime: int) -> int:
    count = 0
    while number % prime == 0:
        number, count = number // prime, count + 1
    return count


CLEAN = format_radius(Fraction(0))
WHOLE_BOX = format_radius(Fraction(1))
"""The radius in the records of an attack without a norm: the L-infinity ball of 255/255 holds the whole box [0, 1]."""
