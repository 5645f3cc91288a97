"""The published update rules, worked by hand over three steps, and Auto-PGD's schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustatt.attack import recipe_files as recipes
from robustatt.attack.apgd import Apgd, SparseApgd, checkpoints
from robustatt.attack.base import Batch, ModelOutput, State, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.losses import (
    LOSSES,
    cross_entropy,
    difference_of_logits_ratio,
    log_odds,
    logit_margin,
    target_margin,
    targeted_logits_ratio,
)
from robustatt.attack.norms import nearest_in_ball_and_box
from robustatt.attack.rng import ExampleRng
from robustatt.attack.square import Square, bump, window


def rows(values: list[float], eps: float) -> Batch:
    """One row: an image of 1 x 1 x n pixels."""
    image = torch.tensor(values).reshape(1, 1, 1, -1)
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(image, zero, torch.tensor([eps]), zero, zero, torch.tensor([[1.0, 0, 0, 0]]), zero - 1)


def built(name: str, **changes: Any) -> Any:
    recipe = recipes.load(name)
    return build(type(recipe).model_validate({**recipe.model_dump(exclude_none=True), **changes}), None)


def walk(attack: SteppedAttack, problem: Batch, grads: list[list[float]], state: State | None = None) -> list[list[float]]:
    """The points asked about when these gradients are the answers."""
    state = attack.start(problem, ExampleRng(0, "walk")) if state is None else state
    asked = []
    for grad in grads:
        asked.append([round(value, 6) for value in attack.query(state).flatten().tolist()])
        answer = ModelOutput(torch.zeros(1, 4), torch.zeros(1), torch.tensor(grad).reshape(problem.image.shape))
        state = attack.step(problem, state, answer)
    return [*asked, [round(value, 6) for value in attack.candidate(state).flatten().tolist()]]


def test_pgd_by_hand() -> None:
    """eps 0.2, steps of 0.1: signs +, -, 0; the second pixel meets the box at 1 and the first the ball at
    0.7."""
    attack = built("pgd", steps=3, step_size=0.5, random_start=False)
    grads = [[2.0, 0.1, 0.0], [5.0, 0.1, -3.0], [1.0, -9.0, -1e-20]]
    walked = walk(attack, rows([0.5, 0.95, 0.5], 0.2), grads)
    expected = [[0.5, 0.95, 0.5], [0.6, 1.0, 0.5], [0.7, 1.0, 0.4], [0.7, 0.9, 0.3]]
    assert [pytest.approx(row) for row in expected] == walked


def test_l2_pgd_by_hand() -> None:
    """Steps of 0.5 along (3, 4) / 5 from 0.2; the second leaves the ball of 0.5 and is scaled back."""
    attack = built("pgd-l2", steps=2, step_size=1.0, random_start=False)
    walked = walk(attack, rows([0.2, 0.2], 0.5), [[3.0, 4.0], [1.0, 0.0]])
    ahead = torch.tensor([0.3 + 0.5, 0.4])
    end = 0.2 + ahead / ahead.norm() * 0.5
    assert [pytest.approx(row, abs=2e-6) for row in ([0.2, 0.2], [0.5, 0.6], end.tolist())] == walked


def test_mi_fgsm_by_hand() -> None:
    """g1 = (3, -1)/4 = (.75, -.25); g2 = g1 + (-1, 0) = (-.25, -.25); g3 = g2 + (.5, .5) = (.25, .25)."""
    attack = built("mi-fgsm", steps=3, step_size=0.25, decay=1.0)
    walked = walk(attack, rows([0.5, 0.5], 0.4), [[3.0, -1.0], [-7.0, 0.0], [2.0, 2.0]])
    expected = [[0.5, 0.5], [0.6, 0.4], [0.5, 0.3], [0.6, 0.4]]
    assert [pytest.approx(row, abs=1e-6) for row in expected] == walked


def test_mi_fgsm_momentum_outvotes_a_small_opposite_gradient() -> None:
    attack = built("mi-fgsm", steps=2, step_size=0.25, decay=2.0)
    walked = walk(attack, rows([0.5, 0.5], 0.4), [[3.0, -1.0], [-1.0, 3.0]])
    assert walked[-1] == pytest.approx([0.7, 0.5], abs=1e-6)  # 2 (.75, -.25) + (-.25, .75) = (1.25, .25)


def test_ni_fgsm_by_hand() -> None:
    """As MI-FGSM, but it asks ahead: at x + step decay g, which may leave the ball; the candidate does
    not."""
    attack = built("ni-fgsm", steps=3, step_size=0.5, decay=1.0)
    walked = walk(attack, rows([0.5, 0.5], 0.2), [[3.0, -1.0], [1.0, 0.0], [2.0, 2.0]])
    expected = [[0.5, 0.5], [0.6 + 0.075, 0.4 - 0.025], [0.7 + 0.175, 0.3 - 0.025], [0.7, 0.4]]
    assert [pytest.approx(row, abs=1e-6) for row in expected] == walked
    assert not attack.queries_are_candidates


def test_vmi_fgsm_by_hand() -> None:
    """g1 = (3, -1)/4; the neighbours' mean is (1, -3), so v = (-2, -2); g2 = g1 + (3 - 2, 1 - 2)/2 = (1.25, -.75)."""
    attack = built("vmi-fgsm", steps=2, step_size=0.25, neighbours=2)
    grads = [[3.0, -1.0], [0.0, -4.0], [2.0, -2.0], [3.0, 1.0], [9.0, 9.0], [9.0, 9.0]]
    problem = rows([0.5, 0.5], 0.4)
    walked = walk(attack, problem, grads)
    own = [walked[0], walked[3], walked[-1]]
    assert own == [pytest.approx(row, abs=1e-6) for row in ([0.5, 0.5], [0.6, 0.4], [0.7, 0.3])]
    assert all(0 < abs(a - 0.5) <= 1.5 * 0.4 for a in walked[1] + walked[2])
    state = attack.start(problem, ExampleRng(0, "walk"))
    for grad in grads[:4]:
        state = attack.step(
            problem, state, ModelOutput(torch.zeros(1, 4), torch.zeros(1), torch.tensor(grad).reshape(problem.image.shape))
        )
    assert state["momentum"].flatten().tolist() == pytest.approx([1.25, -0.75])


def test_di_fgsm_follows_the_gradient_at_the_image_not_at_its_variant() -> None:
    """The pull back through resizing is its adjoint: <grad, T(x)> = <T'(grad), x> for black borders."""
    attack = built("di-fgsm", probability=1.0, smallest=0.5)
    image = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(6, dtype=torch.int64)
    problem = Batch(image, zero, torch.full((6,), 0.1), torch.arange(6), zero, torch.zeros(6, 4), zero - 1)
    state = attack.start(problem, ExampleRng(0, "di"))
    query = attack.query(state)
    assert bool((query.flatten(1).sum(1) < image.flatten(1).sum(1)).all())  # smaller, on black
    assert float(query.max()) <= 1 + 1e-6
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    pulled = attack.step(problem, state, ModelOutput(torch.zeros(6, 4), torch.zeros(6), grad))["momentum"]
    probe = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad((attack._varied(probe, state["key"], state["count"]) * grad).sum(), probe)
    size = expected.abs().flatten(1).sum(1)[:, None, None, None]
    torch.testing.assert_close(pulled, expected / size)
    torch.testing.assert_close((query * grad).flatten(1).sum(1), (image * expected).flatten(1).sum(1), rtol=1e-3, atol=1e-3)


def test_ti_fgsm_blurs_by_a_normalised_gaussian() -> None:
    attack = built("ti-fgsm", kernel=3, sigma=1.0)
    assert float(attack.kernel.sum()) == pytest.approx(1)
    problem = rows([0.5] * 5, 0.1)
    grad = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(problem.image.shape)
    state = attack.start(problem, ExampleRng(0, "ti"))
    blurred = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), torch.zeros(1), grad))["momentum"].flatten()
    side = float(torch.exp(torch.tensor(-0.5)))
    assert blurred.tolist() == pytest.approx([0, side / (1 + 2 * side), 1 / (1 + 2 * side), side / (1 + 2 * side), 0])


def test_spsa_estimates_the_gradient_of_what_it_asks() -> None:
    """Of a linear score: the mean over many pairs of random signs is the gradient."""
    attack = built("spsa", steps=2, samples=2000)
    weight = torch.tensor([0.3, -1.0, 0.5, 0.1])
    problem = rows([0.5] * 4, 0.1)
    state = attack.start(problem, ExampleRng(0, "spsa"))
    inside = 0
    for _ in range(attack.turns - 1):
        inside += int(attack.inside(problem, state))
        score = (attack.query(state).flatten() * weight).sum().reshape(1)
        state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), score, None))
    assert inside == 1
    assert (state["rise"].flatten() / 2000).tolist() == pytest.approx(weight.tolist(), abs=0.1)
    state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), score, None))
    assert (attack.query(state) - problem.image).flatten().sign().tolist() == weight.sign().tolist()


def test_the_constant_grows_tenfold_until_a_mistake_and_is_then_bisected() -> None:
    attack = built("cw-l2", steps=2, searches=6, constant=0.01)
    problem = rows([0.5, 0.5], 1.0)
    state, constants = attack.start(problem, ExampleRng(0, "cw")), []
    for mistake in (False, False, True, False, True, True):
        constants.append(round(float(state["constant"]), 6))
        for _ in range(2):
            logits = torch.tensor([[0.0, 1.0, 0.0, 0.0] if mistake else [1.0, 0.0, 0.0, 0.0]])
            state = attack.step(
                problem, state, ModelOutput(logits, logit_margin(logits, problem.label), torch.ones_like(problem.image))
            )
    assert constants == [0.01, 0.1, 1.0, 0.55, 0.775, 0.6625]


def test_apgd_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10)[:3] == [3, 5, 6]


def apgd_run(losses: list[float], steps: int = 100) -> tuple[list[float], list[State]]:
    """Auto-PGD told these losses, with a constant gradient: its step sizes in units of eps, and its
    states."""
    attack: Apgd = built("apgd-ce", steps=steps)
    problem = rows([0.5, 0.5], 0.1)
    state, states = attack.start(problem, ExampleRng(0, "apgd")), []
    for loss in losses:
        grad = torch.tensor([1.0, -1.0]).reshape(problem.image.shape)
        state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), torch.tensor([loss]), grad))
        states.append(state)
    return [round(float(state["stride"]) / 0.1, 6) for state in states], states


def test_apgd_halves_when_too_few_steps_rise() -> None:
    """At iteration 22 it looks at 22 comparisons: 16 rises are fewer than 0.75 x 22 = 16.5, 17 are not."""
    sixteen = [0.0] + [float(i) for i in range(1, 17)] + [16.0] * 6
    strides, states = apgd_run(sixteen)
    assert strides[:22] == [2.0] * 22
    assert strides[22] == 1.0
    seventeen = [0.0] + [float(i) for i in range(1, 18)] + [17.0] * 5
    assert apgd_run(seventeen)[0][22] == 2.0
    assert float(states[22]["best_loss"]) == 16.0


def test_apgd_goes_on_from_the_best_point() -> None:
    """Losses fall after the fifth: at the checkpoint it returns there and steps along that point's
    gradient."""
    losses = [1.0, 2.0, 3.0, 4.0, 5.0] + [0.0] * 18
    attack: Apgd = built("apgd-ce")
    problem = rows([0.5, 0.5, 0.5], 0.1)
    state = attack.start(problem, ExampleRng(0, "apgd"))
    visited = []
    for number, loss in enumerate(losses):
        visited.append(attack.query(state))
        before = state
        grad = torch.tensor([1.0, -1.0, 1.0 if number % 2 else -1.0]).reshape(problem.image.shape)
        state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), torch.tensor([loss]), grad))
    assert torch.equal(state["previous"], visited[4])  # the point it steps from is the best one, the fifth
    assert torch.equal(state["best"], visited[4])
    x, eps = visited[4], 0.1
    ahead = (x + eps * torch.tensor([1.0, -1.0, -1.0]).reshape(x.shape)).clamp(0.4, 0.6)
    expected = (x + 0.75 * (ahead - x) + 0.25 * (x - before["previous"])).clamp(0.4, 0.6)
    torch.testing.assert_close(state["image"], expected)


def test_apgd_halves_when_the_best_loss_stands_still() -> None:
    """The second condition: at iteration 22 the step is kept, at 41 the best loss is still the same."""
    rising = [float(i) for i in range(18)] + [16.5] * 5  # 17 rises by iteration 22, best 17
    sawtooth = [16.0 + 0.05 * i for i in range(19)]  # rises all the time, never above 17
    strides, _ = apgd_run(rising + sawtooth)
    assert strides[22] == 2.0
    assert strides[41] == 1.0


def test_apgd_first_step_has_no_momentum_and_later_ones_have() -> None:
    attack: Apgd = built("apgd-ce")
    problem = rows([0.5, 0.5], 0.1)
    state = attack.start(problem, ExampleRng(0, "apgd"))
    start = attack.query(state)
    assert float((start - problem.image).abs().max()) == pytest.approx(0.1)  # on the ball's surface
    grad = torch.tensor([1.0, 0.0]).reshape(start.shape)
    first = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), torch.ones(1), grad))
    ahead = torch.stack([torch.tensor(0.6), start.flatten()[1]]).reshape(start.shape)
    torch.testing.assert_close(first["image"], ahead)
    second = attack.step(problem, first, ModelOutput(torch.zeros(1, 4), torch.ones(1) * 2, -grad))
    x = first["image"]
    z = torch.stack([torch.tensor(0.4), x.flatten()[1]]).reshape(x.shape)
    torch.testing.assert_close(second["image"], (x + 0.75 * (z - x) + 0.25 * (x - start)).clamp(0.4, 0.6))


def test_apgd_rows_keep_their_own_count() -> None:
    """A row that joins late meets its checkpoints late: its numbers are those it has alone."""
    attack: Apgd = built("apgd-ce", steps=20)
    early, late = rows([0.5, 0.5], 0.1), rows([0.3, 0.7], 0.1)

    def answer(n: int, step: int) -> ModelOutput:
        grad = torch.tensor([1.0, -1.0 if step % 3 else 1.0]).reshape(1, 1, 1, 2).expand(n, 1, 1, 2)
        return ModelOutput(torch.zeros(n, 4), torch.full((n,), float(step % 4)), grad)

    alone = attack.start(late, ExampleRng(0, "apgd"))
    for step in range(12):
        alone = attack.step(late, alone, answer(1, step))
    both = attack.start(early, ExampleRng(0, "apgd"))
    for step in range(7):
        both = attack.step(early, both, answer(1, step))
    both = both.followed_by(attack.start(late, ExampleRng(0, "apgd")))
    for step in range(12):
        both = attack.step(early.followed_by(late), both, answer(2, step))
    for name, value in alone.items():
        assert torch.equal(both[name][1:], value), name


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_losses_rank_as_published(loss: str) -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5, 0.0], [1.0, 3.0, 0.5, 0.0]])
    low, high = LOSSES[loss](logits, torch.zeros(2, dtype=torch.int64)).tolist()
    assert low < high


def test_loss_values_by_hand() -> None:
    logits, label = torch.tensor([[3.0, 1.0, 0.5, 0.0]]), torch.tensor([0])
    assert float(logit_margin(logits, label)) == pytest.approx(-2)
    assert float(difference_of_logits_ratio(logits, label)) == pytest.approx(-2 / 2.5)
    assert float(targeted_logits_ratio(logits, label, torch.tensor([2]))) == pytest.approx(-2.5 / (3 - 0.25))
    assert float(target_margin(logits, label, torch.tensor([3]))) == pytest.approx(-3)
    softplus = torch.nn.functional.softplus(log_odds(logits, label))
    torch.testing.assert_close(softplus, cross_entropy(logits, label))


def test_dlr_does_not_change_with_shift_or_scale() -> None:
    logits, label = torch.randn(20, 6), torch.randint(6, (20,))
    scaled: Callable[[Tensor], Tensor] = lambda z: 37 * z + 5  # noqa: E731
    torch.testing.assert_close(
        difference_of_logits_ratio(logits, label),
        difference_of_logits_ratio(scaled(logits), label),
        rtol=1e-3,
        atol=1e-4,
    )


def test_square_windows_and_schedule() -> None:
    """Sides for 32 x 32 and p 0.8: sqrt(0.8 x 1024) = 28.6, halved in area at 10, 50, 200, ... queries of
    10,000."""
    attack: Square = built("square", queries=10_000)
    image = torch.zeros(1, 3, 32, 32)
    at = torch.tensor([0, 10, 11, 51, 201, 501, 8001])
    assert attack._side(at, image).tolist() == [29, 29, 20, 14, 10, 7, 1]
    stretched: Square = built("square", queries=1000)
    assert stretched._side(torch.tensor([0, 1, 2, 6]), image).tolist() == [29, 29, 20, 14]
    mask = window(torch.tensor([2, 3]), torch.tensor([1, 0]), torch.tensor([0, 2]), 4, 5).mask
    assert mask.sum((1, 2, 3)).tolist() == [4, 9]
    assert bool(mask[0, 0, 1:3, 0:2].all())
    assert bool(mask[1, 0, 0:3, 2:5].all())


def test_square_proposals_change_one_window_to_the_ball_s_corners() -> None:
    attack: Square = built("square")
    generator = torch.Generator().manual_seed(0)
    image = 0.3 + 0.4 * torch.rand(4, 3, 8, 8, generator=generator)
    zero = torch.zeros(4, dtype=torch.int64)
    problem = Batch(image, zero, torch.full((4,), 0.1), torch.arange(4), zero, torch.zeros(4, 4), zero - 1)
    state = attack.start(problem, ExampleRng(0, "square"))
    stripes = (attack.query(state) - image) / 0.1
    torch.testing.assert_close(stripes.abs(), torch.ones_like(stripes))
    torch.testing.assert_close(stripes, stripes[:, :, :1].expand_as(stripes))
    state = attack.step(problem, state, ModelOutput(torch.zeros(4, 4), torch.zeros(4), None))
    proposal = (attack.query(state) - image) / 0.1
    torch.testing.assert_close(proposal.abs(), torch.ones_like(proposal))
    kept = attack.step(problem, state, ModelOutput(torch.zeros(4, 4), torch.full((4,), -1.0), None))
    assert torch.equal(kept["best"], state["best"])  # a worse proposal is forgotten
    taken = attack.step(problem, state, ModelOutput(torch.zeros(4, 4), torch.ones(4), None))
    assert torch.equal(taken["best"], attack.query(state))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
def test_square_bumps_have_length_one_and_two_signs(side: int, order: int) -> None:
    laid = bump(side, order)
    assert float(laid.norm(p=order)) == pytest.approx(1)
    if side > 1:
        assert bool((laid[: side // 2] > 0).all())
        assert bool((laid[side // 2 :] < 0).all())


def test_square_l2_spends_the_whole_radius() -> None:
    attack: Square = built("square-l2")
    image = torch.full((3, 3, 9, 9), 0.5)
    zero = torch.zeros(3, dtype=torch.int64)
    problem = Batch(image, zero, torch.tensor([0.1, 0.5, 1.0]), torch.arange(3), zero, torch.zeros(3, 4), zero - 1)
    state = attack.start(problem, ExampleRng(0, "square"))
    for number in range(30):
        length = (attack.query(state) - image).flatten(1).norm(dim=1)
        torch.testing.assert_close(length, problem.eps, rtol=1e-4, atol=1e-5)
        state = attack.step(problem, state, ModelOutput(torch.zeros(3, 4), torch.full((3,), float(number % 3)), None))


def test_sparse_apgd_by_hand() -> None:
    """Five pixels, eps 0.5: a fifth of them moves by eps, then a pixel that is full, then the ball's limit."""
    attack: SparseApgd = built("apgd-l1", steps=100)
    problem = rows([0.5, 0.2, 0.5, 0.5, 0.5], 0.5)
    state = attack.start(problem, ExampleRng(0, "apgd"))
    state["image"] = state["best"] = problem.image
    walked = walk(attack, problem, [[1.0, -9.0, 2.0, 3.0, 0.0], [1.0, -2.0, 8.0, 3.0, 0.0]], state)
    expected = [
        [0.5, 0.2, 0.5, 0.5, 0.5],
        [0.5, 0.0, 0.5, 0.5, 0.5],  # the second pixel wanted -0.5 and had 0.2 of room
        [0.5, 0.1, 0.9, 0.5, 0.5],  # -0.2 and +0.5 sum to 0.7: both shrink by the level 0.1
    ]
    assert walked == [pytest.approx(row, abs=1e-5) for row in expected]


def test_sparse_apgd_sets_the_share_of_pixels_from_the_best_point() -> None:
    attack: SparseApgd = built("apgd-l1", steps=100)
    assert [number for number, ball in enumerate(attack.balls) if ball.due][:3] == [4, 8, 12]
    problem = rows([0.5] * 20, 0.4)
    state = attack.start(problem, ExampleRng(0, "apgd"))
    grad = torch.linspace(1, 2, 20).reshape(problem.image.shape)
    strides, shares = [], []
    for turn in range(14):
        state["image"] = problem.image + torch.tensor([0.01] * 12 + [0.0] * 8).reshape(problem.image.shape)
        state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), torch.tensor([float(turn)]), grad))
        strides.append(round(float(state["stride"]), 4))
        shares.append(round(float(state["share"]), 4))
    assert shares[:4] == [0.2] * 4
    assert shares[4:] == [0.4] * 10  # 12 changed of 20, over 1.5
    assert strides == [0.4] * 8 + [round(0.4 / 1.5, 4)] * 4 + [round(0.4 / 2.25, 4)] * 2


def test_sparse_apgd_begins_in_larger_balls() -> None:
    """Ten steps: three each in balls of three and two times the radius, four in its own, where alone a query counts."""
    attack: SparseApgd = built("apgd-l1", steps=10, larger_radii=True)
    problem = rows([0.5] * 20, 0.4)
    state = attack.start(problem, ExampleRng(0, "apgd"))
    sizes, counted = [], []
    for turn in range(10):
        sizes.append(round(float((attack.query(state) - problem.image).abs().sum()) / 0.4, 3))
        counted.append(bool(attack.inside(problem, state)))
        losses = torch.tensor([-float(turn % 3)])  # the first in each ball is the best, and is where the next begins
        grad = torch.linspace(1, 2, 20).reshape(problem.image.shape)
        if turn % 3 == 0:
            best = attack.query(state)
        state = attack.step(problem, state, ModelOutput(torch.zeros(1, 4), losses, grad))
        if turn in (2, 5):
            eps = problem.eps * (2 if turn == 2 else 1)
            torch.testing.assert_close(
                attack.query(state), problem.image + nearest_in_ball_and_box(problem.image, best - problem.image, eps)
            )
    assert sizes == pytest.approx([3] * 3 + [2] * 3 + [1] * 4, abs=2e-3)
    assert counted == [False] * 6 + [True] * 4
    assert float((attack.candidate(state) - problem.image).abs().sum()) <= 0.4


def test_square_l1_stays_in_ball_and_box_and_uses_the_radius() -> None:
    attack: Square = built("square-l1")
    image = torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(3, dtype=torch.int64)
    problem = Batch(image, zero, torch.tensor([0.5, 4.0, 20.0]), torch.arange(3), zero, torch.zeros(3, 4), zero - 1)
    state = attack.start(problem, ExampleRng(0, "square"))
    for number in range(40):
        query = attack.query(state)
        size = (query - image).flatten(1).abs().sum(1)
        assert bool((size <= problem.eps).all())
        assert bool((size > 0.5 * problem.eps).all())
        assert 0 <= float(query.min()) <= float(query.max()) <= 1
        state = attack.step(problem, state, ModelOutput(torch.zeros(3, 4), torch.full((3,), float(number % 3)), None))


def test_the_projection_onto_ball_and_box_is_the_nearest_point() -> None:
    """Held against bisection for the level, in which no corner is sorted."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(40, 1, 3, 7, generator=generator)
    delta = torch.randn(40, 1, 3, 7, generator=generator) * torch.logspace(-3, 1, 40)[:, None, None, None]
    eps = torch.linspace(0, 8, 40)
    found = nearest_in_ball_and_box(clean, delta, eps)
    size, room = delta.abs().flatten(1), torch.where(delta > 0, 1 - clean, clean).flatten(1)
    low, high = torch.zeros(40), size.amax(1)
    for _ in range(60):
        level = (low + high) / 2
        fits = torch.minimum((size - level[:, None]).clamp_min(0), room).sum(1) <= eps
        low, high = torch.where(fits, low, level), torch.where(fits, level, high)
    expected = torch.minimum((size - high[:, None]).clamp_min(0), room) * delta.flatten(1).sign()
    assert torch.allclose(found.flatten(1), expected, atol=1e-4)
    assert (found.flatten(1).abs().sum(1) <= eps).all()
    assert (clean + found >= 0).all()
    assert (clean + found <= 1).all()
