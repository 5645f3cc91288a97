"""The eps grammar: every accepted form, every rejected one, and exactness."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustatt.eps import format_radius, parse_grid, parse_radius
from robustatt.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1..3", ["1/255", "2/255", "3/255"]),
        ("0..32:16", ["16/255", "32/255"]),
        ("1,2,4,8", ["1/255", "2/255", "4/255", "8/255"]),
        ("8,4,8", ["4/255", "8/255"]),
        ("0.5", ["0.5/255"]),
        ("8/255", ["8/255"]),
        ("5", ["5/255"]),
        ("1/7", ["1/7"]),
        ("1/3", ["85/255"]),
        ("0", []),
        (" 1 .. 2 ", ["1/255", "2/255"]),
    ],
)
def test_grammar(text: str, expected: list[str]) -> None:
    assert [format_radius(eps) for eps in parse_grid(text)] == expected


def test_decimals_with_unit_one_are_exact() -> None:
    assert parse_grid("0.1,0.3", Fraction(1)) == (Fraction(1, 10), Fraction(3, 10))


@pytest.mark.parametrize(
    "text",
    [
        "16..1",
        "-1",
        "a",
        "nan",
        "inf",
        "",
        " ",
        "1,,2",
        "1..",
        "1..4:0",
        "1..4:-1",
        "1/0",
        "1e3",
        "0..1000000",
        "1;2",
        "..",
        "1/2/3",
    ],
)
def test_rejected(text: str) -> None:
    with pytest.raises(InputError, match="--eps"):
        parse_grid(text)


@given(st.fractions(min_value=0, max_value=2))
def test_written_radii_are_read_back_exactly(eps: Fraction) -> None:
    assert parse_radius(format_radius(eps)) == eps


@given(st.text(max_size=30))
def test_any_text_is_a_grid_or_one_line(text: str) -> None:
    try:
        radii = parse_grid(text)
    except InputError as problem:
        assert "\n" not in str(problem).replace(text, "")
    else:
        assert list(radii) == sorted(set(radii))
        assert 0 not in radii
