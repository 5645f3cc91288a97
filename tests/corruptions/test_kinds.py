"""What may be said of kinds and severities, and what is published for them."""

from __future__ import annotations

import pytest

from robustatt.attack import recipe_files
from robustatt.corruptions.kinds import BENCHMARK, GROUPS, KINDS, SEVERITIES, chosen_kinds, chosen_severities, constants
from robustatt.errors import InputError


def test_the_benchmark_has_fifteen_kinds_and_four_are_extra() -> None:
    assert (len(BENCHMARK), len(GROUPS["extra"]), len(set(KINDS))) == (15, 4, 19)
    assert chosen_kinds(()) == BENCHMARK
    assert chosen_kinds(["all"]) == KINDS
    assert chosen_kinds(["fog", "noise", "fog"]) == (*GROUPS["noise"], "fog")


@pytest.mark.parametrize(("text", "expected"), [("1..5", SEVERITIES), ("3", (3,)), ("5,1", (1, 5)), ("1..2,4", (1, 2, 4))])
def test_severities(text: str, expected: tuple[int, ...]) -> None:
    assert chosen_severities(text) == expected


@pytest.mark.parametrize("text", ["0", "6", "1..6", "3..1", "", "x", "1.5", "-1", "1..", "²"])
def test_what_is_no_severity(text: str) -> None:
    with pytest.raises(InputError, match="from 1 to 5"):
        chosen_severities(text)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'fog'"):
        chosen_kinds(["fogg"])
    with pytest.raises(InputError, match="did you mean 'fog'"):
        recipe_files.parse({"name": "x", "algorithm": "corruption", "kind": "fogg"}, "here")


def test_constants_are_those_published_for_the_size() -> None:
    noise = [constants("gaussian_noise", 5, side, side) for side in (28, 32, 64, 96, 224, 299)]
    assert noise == [0.10, 0.10, 0.18, 0.18, 0.38, 0.38]
    for kind in KINDS:
        for side in (32, 64, 224):
            assert all(constants(kind, severity, side, side) is not None for severity in SEVERITIES)


def test_a_corruption_is_known_to_sweeps_by_its_name() -> None:
    fog = recipe_files.load("fog")
    assert (fog.category, fog.scale, fog.unbounded) == ("corruption", "severity", True)
    again = recipe_files.parse(fog.model_dump(mode="json", exclude_none=True), "here")
    assert again == fog
