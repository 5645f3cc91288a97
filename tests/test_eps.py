"""The eps grammar: every accepted form, every rejected one, and exactness."""

from __future__ import annotations

from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustatt.eps import (
    CLEAN,
    DEFAULT_GRIDS,
    UNITS,
    WHOLE_BOX,
    axis_value,
    format_radius,
    parse_grid,
    parse_radius,
    radius_values,
)
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
        ("4..4", ["4/255"]),
        ("0...5:.25", ["0.25/255", "0.5/255"]),
        ("1,0." + "0" * 61 + "1", ["0." + "0" * 61 + "1/255", "1/255"]),
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
        "1_0",
        "1..4:5",
        "1..1025",
        "1..1000,1001..1025",
        "0." + "0" * 62 + "1",
    ],
)
def test_rejected(text: str) -> None:
    with pytest.raises(InputError, match="--eps"):
        parse_grid(text)


def test_as_many_radii_as_the_limit() -> None:
    assert parse_grid("1..1024") == parse_grid("1..1000,1001..1024") == tuple(Fraction(i, 255) for i in range(1, 1025))


@given(st.fractions(min_value=0, max_value=2), st.sampled_from(["linf", "l2", "l1"]))
def test_written_radii_are_read_back_exactly(eps: Fraction, norm: str) -> None:
    assert parse_radius(format_radius(eps, norm)) == eps


@pytest.mark.parametrize(
    ("eps", "norm", "text"),
    [
        (Fraction(1, 4), "l2", "0.25"),
        (Fraction(1, 5), "l2", "0.2"),
        (Fraction(1, 80), "l1", "0.0125"),
        (Fraction(12), "l1", "12"),
        (Fraction(1, 3), "l2", "85/255"),
        (Fraction(1, 7), "l2", "1/7"),
        (Fraction(3, 10**30), "l2", "0.000000000000000000000000000003"),
        (Fraction(1, 510), "linf", "0.5/255"),
    ],
)
def test_radii_are_written_as_decimals_where_one_is_exact(eps: Fraction, norm: str, text: str) -> None:
    assert format_radius(eps, norm) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", Fraction(8, 255)), ("0.5/255", Fraction(1, 510)), ("0.5", Fraction(1, 2)), ("1e-05", Fraction(1, 10**5))],
)
def test_a_radius_of_records_is_read(text: str, value: Fraction) -> None:
    assert parse_radius(text) == value


@pytest.mark.parametrize(
    "text", ["", "8/", "/8", "1/0", "1/2/3", "1_0", "1e9999", "1/1e9999", "1e99999999", "0." + "0" * 62 + "1"]
)
def test_what_no_record_holds_is_no_radius(text: str) -> None:
    """An exponent of eight digits would be worked out for hours."""
    with pytest.raises(InputError, match="not a radius"):
        parse_radius(text)


def test_radii_of_records_as_numbers() -> None:
    texts = pd.Series(["8/255", "0/255", "8/255", "0.5"], index=[3, 1, 2, 0], dtype="category")
    expected = pd.Series([8 / 255, 0.0, 8 / 255, 0.5], index=[3, 1, 2, 0])
    pd.testing.assert_series_equal(radius_values(texts), expected)


def test_an_axis_counts_in_the_unit_of_its_norm() -> None:
    assert axis_value("8/255", "linf") == axis_value("8/255", "another") == 8
    assert axis_value("0.5", "l2") == axis_value("0.5", "l1") == 0.5


def test_one_step_of_linf_is_a_255th_and_the_other_norms_count_plain_numbers() -> None:
    assert {"linf": Fraction(1, 255), "l2": 1, "l1": 1, "severity": 1} == UNITS
    assert (CLEAN, WHOLE_BOX) == ("0/255", "255/255")
    radii = {norm: parse_grid(grid, UNITS[norm]) for norm, grid in DEFAULT_GRIDS.items()}
    assert radii["linf"] == tuple(Fraction(i, 255) for i in range(1, 17))
    assert radii["l2"] == tuple(Fraction(i, 4) for i in range(1, 9))
    assert radii["l1"] == tuple(Fraction(2 * i) for i in range(1, 13))


@given(st.text(max_size=30))
def test_any_text_is_a_grid_or_one_line(text: str) -> None:
    try:
        radii = parse_grid(text)
    except InputError as problem:
        assert "\n" not in str(problem).replace(text, "")
    else:
        assert list(radii) == sorted(set(radii))
        assert 0 not in radii
