"""The search over a grid: it must find every threshold, in few full runs when the guess is near."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustatt.grid import Bracket


@given(st.integers(1, 64).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k), st.integers(-5, 80))))
def test_every_threshold_is_found(case: tuple[int, int, int]) -> None:
    radii, threshold, guess = case
    bracket, attacked = Bracket(radii, guess), []
    while (radius := bracket.next()) is not None:
        assert 0 <= radius < radii
        assert radius not in attacked, "no radius is attacked twice"
        attacked.append(radius)
        bracket.learn(radius, broken=radius >= threshold)
    assert (bracket.held, bracket.broken) == (threshold - 1, threshold)
    if 0 < threshold < radii:
        assert {threshold - 1, threshold} <= set(attacked), "full strength on both sides"


def test_a_right_guess_costs_two_runs() -> None:
    bracket, runs = Bracket(16, 7), 0
    while (radius := bracket.next()) is not None:
        bracket.learn(radius, broken=radius >= 7)
        runs += 1
    assert runs == 2


def test_a_smaller_radius_that_falls_reopens_the_search() -> None:
    bracket = Bracket(16, 9)
    bracket.learn(9, broken=True)
    bracket.learn(8, broken=False)
    assert bracket.next() is None
    bracket.fell_at(3, held=[8, 1])
    assert (bracket.held, bracket.broken) == (1, 3)
    assert bracket.next() == 2
