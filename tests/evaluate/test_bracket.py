"""The search over a grid: it must find every threshold, in few full runs when the guess is near."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import Linear, exact_distance, linear_data

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.base import Batch, Oracle, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.norms import NORMS
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.bracket import Bracket, estimate_threshold
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.step_runner import Job, StepRunner


@given(
    st.integers(1, 64).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k), st.integers(-5, 80))),
    st.lists(st.one_of(st.none(), st.integers(-5, 80)), max_size=8),
)
def test_every_threshold_is_found(case: tuple[int, int, int], guesses: list[int | None]) -> None:
    """Also while good and bad guesses arrive on the way."""
    radii, threshold, guess = case
    bracket, attacked = Bracket(radii, guess), []
    while (radius := bracket.next()) is not None:
        assert 0 <= radius < radii
        assert radius not in attacked, "no radius is attacked twice"
        attacked.append(radius)
        bracket.learn(radius, broken=radius >= threshold)
        if guesses and (better := guesses.pop()) is not None:
            bracket.expect(better)
    assert (bracket.held, bracket.broken) == (threshold - 1, threshold)
    if 0 < threshold < radii:
        assert {threshold - 1, threshold} <= set(attacked), "full strength on both sides"


def test_what_is_known_is_not_unlearnt() -> None:
    """Outcomes may come in any order: several radii of an example are attacked at once."""
    bracket = Bracket(16, 7)
    for radius, broken in ((8, False), (3, False), (12, True), (14, True)):
        bracket.learn(radius, broken)
    assert (bracket.held, bracket.broken) == (8, 12)


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


WALKS = {
    "from above in short strides, then nearer to the upper end": (64, 80, 53, [60, 56, 52, 54, 53]),
    "above a guess that held, in growing strides": (64, 5, 62, [4, 8, 16, 32, 63, 55, 60, 62, 61]),
    "to the last radius": (64, 5, 64, [4, 8, 16, 32, 63]),
    "a guess below the grid is its first radius": (64, -5, 0, [0]),
    "a guess of the first radius": (64, 0, 1, [0, 4, 2, 1]),
    "right, and nothing is known above it": (64, 9, 9, [8, 12, 10, 9]),
    "one too low": (64, 9, 10, [8, 12, 10, 9]),
    "one too high": (64, 9, 8, [8, 4, 6, 7]),
    "few radii are walked one by one": (10, 12, 7, [9, 8, 7, 6]),
    "31 too": (31, 40, 29, [30, 29, 28]),
    "32 by twos": (32, 40, 29, [30, 28, 29]),
    "one radius": (1, 7, 0, [0]),
}


@pytest.mark.parametrize(("radii", "guess", "threshold", "walk"), WALKS.values(), ids=WALKS)
def test_the_radii_that_are_tried(radii: int, guess: int, threshold: int, walk: list[int]) -> None:
    bracket, tried = Bracket(radii, guess), []
    while (radius := bracket.next()) is not None:
        tried.append(radius)
        bracket.learn(radius, broken=radius >= threshold)
    assert tried == walk


def test_after_a_fall_the_search_comes_from_above_again() -> None:
    bracket = Bracket(64, 80)
    for radius in (60, 52):
        bracket.learn(radius, broken=radius >= 53)
    bracket.fell_at(40, held=[52, 40, 44])
    assert (bracket.held, bracket.broken, bracket.next()) == (-1, 40, 36)
    bracket.learn(36, broken=False)
    assert bracket.next() == 39, "no run has succeeded since: strides that grow"
    bracket.expect(39)
    assert bracket.next() == 38


@pytest.mark.parametrize("targeted", [False, True])
def test_the_estimate_is_near_also_for_a_model_that_is_never_sure(targeted: bool) -> None:
    """Logits this small leave the right class less likely than all others together, and still ahead of each."""
    model = Linear(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.01
    image, label = linear_data(model, 40)
    assert model(image).softmax(1).amax() < 0.5
    goal = model(image).topk(2).indices[:, 1] if targeted else torch.full_like(label, -1)
    rows = Batch(
        image,
        label,
        torch.full((40,), 16 / 255),
        torch.arange(40),
        torch.zeros_like(label),
        model(image).detach(),
        goal,
    )
    estimate = estimate_threshold(rows, NORMS["linf"], Oracle(model))
    exact = exact_distance(model, image, label, "linf")
    ratio = (estimate / exact)[(exact > 0) & (exact < 16 / 255)]
    assert len(ratio) > 10
    assert ratio.quantile(0.1) > 0.8, "below it every radius up to the threshold would be tried"
    assert ratio.median() < 1.5


def test_an_image_that_failed_is_scaled_to_the_next_radius_in_place_of_a_run() -> None:
    """On a linear model that breaks an example exactly when a run there would: one run, and four gradients to guess."""
    model = Linear(2)
    image, label = linear_data(model, 60)
    result = robustatt.sweep(model, (image, label), attacks=["pgd"], eps="0.25..6:0.25")
    records = result.records[result.records["eps"] != "0/255"]
    wrong = records.assign(wrong=records["adv_pred"] != records["label"])
    holds = (~wrong["wrong"]).groupby(wrong["index"]).sum()
    between = holds[(holds > 0) & (holds < 24)].index
    at_once = (label == model(image).argmax(1)).sum() - len(between)  # broken at the first radius, in few steps
    assert len(between) > 40
    assert at_once <= 10
    assert result.summary["provenance"]["gradients"] <= len(between) * (4 + 40) + at_once * (4 + 10)
    assert (wrong[wrong["index"].isin(between)].groupby("index")["attacked"].sum() == 2).all()


def test_a_run_that_succeeds_says_which_radius_it_needed() -> None:
    """On a linear model: the exact distance, and at most the last step more."""
    model, step = Linear(2), 0.1
    image, label = linear_data(model, 60)
    exact = exact_distance(model, image, label, "linf").numpy()
    with frozen(model, "m", torch.device("cpu"), image) as classifier:
        target = AttackedBatch(classifier, NORMS["linf"], "pgd", image, label, torch.arange(60), torch.tensor([8 / 255]), 32)
        pgd = build(recipes.load("pgd").model_copy(update={"step_size": step}), 2)
        assert isinstance(pgd, SteppedAttack)
        pool = StepRunner(target, pgd, Oracle(classifier.logits), ExampleRng(0, "pgd"))
        pool.waiting.extend(Job(int(example), 0) for example in np.flatnonzero((exact > 0) & (exact < 4 / 255)))
        broken = []
        pool.refill()
        while len(pool):
            broken += pool.advance()
            pool.refill()
    late = [item for item in broken if item.needed > 0.5 * exact[item.job.example]]  # not broken by the random start alone
    assert len(late) > 20
    for item in late:
        assert exact[item.job.example] - 1e-6 < item.needed < exact[item.job.example] + step * 8 / 255 + 1e-6
