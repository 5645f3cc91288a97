"""The threshold search on two-class models whose thresholds are known exactly, however wrong its guesses are; and what it costs.

A margin bent by a power keeps its zero, so thresholds are those of the linear model, but its gradient promises other radii: far
too small ones for a cube, far too large ones for a cube root. Costs are counts, exact on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Linear, Rounded, exact_distance, linear_data
from torch import Tensor, nn

from robustatt.attack import recipe_files
from robustatt.attack.base import Batch, Chain, Oracle
from robustatt.attack.builder import build
from robustatt.attack.norms import NORMS
from robustatt.attack.recipe import Recipe
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable
from robustatt.evaluate.bracket import estimate_threshold
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.evaluate.threshold_search import GridSearch

STEPS = 64


class Bent(nn.Module):
    """The linear model with its margin m replaced by sign(m) |m| ** power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.linear, self.power = Linear(2), power

    def forward(self, image: Tensor) -> Tensor:
        logits = self.linear(image)
        margin = logits[:, 1] - logits[:, 0]
        bent = margin.sign() * (margin.abs() + 1e-9) ** self.power
        return torch.stack([-bent, bent], dim=1)


def recipe(name: str, **changes: Any) -> Recipe:
    return recipe_files.load(name).model_copy(update=changes)


@dataclass(frozen=True)
class Searched:
    """The outcomes ``(examples, radii)``, and what they cost: gradients, forwards of the attack, images judged, examples done."""

    ledger: OutcomeTable
    label: Tensor
    cost: tuple[int, int, int, int]

    @property
    def wrong(self) -> np.ndarray:
        found: np.ndarray = self.ledger.columns["adv_pred"] != self.label.numpy()[:, None]
        return found

    @property
    def thresholds(self) -> np.ndarray:
        """For each example the first radius, in steps, at which it is wrong; `STEPS` + 1 if none."""
        return np.where(self.wrong.any(1), self.wrong.argmax(1) + 1, STEPS + 1)


def searched(
    power: float,
    recipe: Recipe,
    n: int = 20,
    *,
    independent: bool = False,
    kept: KeptRows | None = None,
    around: Callable[[nn.Module], nn.Module] = nn.Sequential,
) -> Searched:
    bent = Bent(power)
    image, label = data(bent.linear, n)
    model = around(bent)
    attack = build(recipe, 2)
    radii, done = torch.arange(1, STEPS + 1) / 255, list[int]()
    with frozen(model, "bent", torch.device("cpu"), image[:4]) as classifier:
        target = AttackedBatch(classifier, attack.norm, attack.name, image, label, torch.arange(n), radii, 7, kept)
        target.set_target_classes(attack, ExampleRng(0, attack.name))
        oracle = Oracle(classifier.logits, classifier.box_margin)
        parts = attack.parts if isinstance(attack, Chain) else [attack]
        ledger = GridSearch(target, parts, oracle, lambda part: ExampleRng(0, part), done.append, independent).run()
    return Searched(ledger, label, (oracle.gradients, oracle.forwards, target.forwards, sum(done)))


def data(model: Linear, n: int) -> tuple[Tensor, Tensor]:
    """Images from 0.3 steps to beyond the grid away from the boundary; every ninth is on the wrong side of it."""
    with torch.no_grad():
        across = model.weight[1] - model.weight[0]
        middle = -(model.bias[1] - model.bias[0]) / across.abs().sum()
    steps = 0.3 + (torch.arange(n) * 7.0) % (STEPS + 5)
    wrong = torch.arange(n) % 9 == 4
    shift = middle + torch.where(wrong, -1.0, 1.0) * steps / 255
    return 0.5 + (shift[:, None] * across.sign()).view(n, 3, 6, 6), torch.ones(n, dtype=torch.long)


def exact(n: int = 20) -> np.ndarray:
    model = Bent(1).linear
    distance = exact_distance(model, *data(model, n), "linf").numpy()
    return np.where(distance < 0, 1, np.minimum(np.floor(255 * distance) + 1, STEPS + 1)).astype(int)


ATTACKS = {
    "pgd": recipe("pgd", steps=6, step_size=0.5, random_start=False),
    "mi-fgsm": recipe("mi-fgsm", steps=4, step_size=0.5),
    "restarts": recipe("pgd", steps=6, step_size=0.5, restarts=2),
    "chain": recipe("autoattack", steps=4, targets=1, queries=3),
}


#: (gradients, forwards, images judged, examples done), and the rows attacked at full strength
COSTS = {
    ("chain", 1 / 3): ((468, 136, 747, 20), 101),
    ("chain", 1.0): ((278, 136, 680, 20), 34),
    ("chain", 3.0): ((702, 136, 786, 20), 140),
    ("mi-fgsm", 1 / 3): ((391, 0, 696, 20), 101),
    ("mi-fgsm", 1.0): ((142, 0, 629, 20), 34),
    ("mi-fgsm", 3.0): ((566, 0, 735, 20), 140),
    ("pgd", 1 / 3): ((461, 0, 696, 20), 101),
    ("pgd", 1.0): ((176, 0, 629, 20), 34),
    ("pgd", 3.0): ((812, 0, 735, 20), 140),
    ("restarts", 1 / 3): ((667, 0, 723, 20), 96),
    ("restarts", 1.0): ((278, 0, 646, 20), 34),
    ("restarts", 3.0): ((1551, 0, 858, 20), 140),
}


@pytest.mark.parametrize(("name", "power"), sorted(COSTS))
def test_every_threshold_is_the_exact_one_however_wrong_the_guess_and_costs_no_more_than_it_did(name: str, power: float) -> None:
    found = searched(power, ATTACKS[name])
    assert (found.thresholds == exact()).all()
    for example, first in enumerate(found.thresholds):
        assert found.wrong[example, first - 1 :].all(), "what broke stays broken"
    assert (found.cost, int(found.ledger.columns["attacked"].sum())) == COSTS[name, power]


@pytest.mark.parametrize("name", ["pgd", "chain"])
def test_every_radius_afresh_gives_the_same_and_attacks_all_that_is_right(name: str) -> None:
    found = searched(3.0, ATTACKS[name], independent=True)
    assert (found.thresholds == exact()).all()
    right = exact() > 1
    right[0] = True  # its threshold lies below the first radius, and it is right when clean
    assert found.ledger.columns["attacked"][right].all()
    assert not found.ledger.columns["attacked"][~right].any()
    assert found.cost[3] == 20


def test_every_row_is_backed_by_an_image_of_its_own_ball_which_fills_it_where_the_example_held() -> None:
    found = searched(1.0, ATTACKS["pgd"])
    radii = np.arange(1, STEPS + 1) / 255
    columns = found.ledger.columns
    assert (columns["distance"] <= radii + 1e-6).all()
    clean = exact() == 1
    clean[0] = False
    assert (columns["distance"][clean] == 0).all()
    at = np.broadcast_to(radii, columns["distance"].shape)
    held = ~found.wrong & ~clean[:, None]
    assert columns["distance"][held] == pytest.approx(at[held], rel=1e-4), "below its threshold the failed image fills the ball"


def test_a_chain_credits_the_part_that_broke_and_nothing_where_all_held() -> None:
    found = searched(1.0, ATTACKS["chain"])
    parts = found.ledger.columns["broken_by"]
    reached = found.wrong & (exact() > 1)[:, None]
    assert set(parts[reached]) == {"apgd-ce"}
    assert set(parts[~found.wrong]) == {""}


# Each row and its image ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "power"), [("chain", 3.0), ("mi-fgsm", 1 / 3), ("pgd", 1 / 3), ("restarts", 3.0)])
def test_a_row_says_what_its_own_image_does(name: str, power: float) -> None:
    """Prediction, margin and distance, computed again from the images of all rows; no row's gradients were all zero."""
    kept = KeptRows(20, range(STEPS))
    found = searched(power, ATTACKS[name], kept=kept)
    columns, model = found.ledger.columns, Bent(power)
    clean, _ = data(model.linear, 20)
    for radius in range(STEPS):
        image = torch.from_numpy(np.stack([kept[example, radius]["image"] for example in range(20)]))
        with torch.no_grad():
            logits = model(image)
        assert columns["adv_pred"][:, radius].tolist() == logits.argmax(1).tolist()
        assert columns["adv_margin"][:, radius] == pytest.approx((logits[:, 1] - logits[:, 0]).numpy(), rel=5e-6, abs=2e-5)
        assert columns["distance"][:, radius] == pytest.approx((image - clean).abs().flatten(1).amax(1).numpy(), abs=1e-6)
    assert not columns["zero_grad"].any()
    assert not columns["attacked"][exact() == 1][1:].any(), "wrong when clean"
    first = np.minimum(found.thresholds, STEPS) - 1
    right = exact() > 1
    assert columns["attacked"][np.arange(20), first][right].sum() >= right.sum() - 1, (
        "broken by a run, or by an image scaled to it"
    )


def test_a_later_part_breaks_what_the_first_cannot_and_is_credited() -> None:
    """A model without gradients: only what draws at random breaks it, and the later parts at smaller radii."""
    found = searched(1.0, recipe("autoattack", steps=2, targets=1, queries=40), n=8, around=Rounded)
    columns = found.ledger.columns
    right = exact(8) > 1
    right[0] = True
    reached = found.wrong & right[:, None]
    assert "square" in set(columns["broken_by"][reached]) <= {"apgd-ce", "apgd-t", "fab-t", "square"}
    assert set(columns["broken_by"][~reached]) == {""}
    for example, first in enumerate(found.thresholds):
        assert found.wrong[example, first - 1 :].all()
        assert first >= exact(8)[example]
    assert found.cost[3] == 8


def test_zero_gradients_are_said_of_every_row_that_a_run_was_tried_for() -> None:
    found = searched(1.0, ATTACKS["restarts"], n=10, around=Rounded)
    right = exact(10) > 1
    right[0] = True
    held = ~found.wrong & right[:, None]
    assert held.any()
    assert found.ledger.columns["zero_grad"][held].all()
    assert not found.ledger.columns["zero_grad"][~right].any()


def test_targets_are_reached_at_the_exact_thresholds_too() -> None:
    """Of two classes the target is the other one; what is of the target's class when clean is left alone."""
    found = searched(3.0, recipe("pgd", steps=6, step_size=0.5, random_start=False, targeted="random"))
    assert (found.thresholds == exact()).all()


# The estimate ----------------------------------------------------------------------------------------------


def estimated(power: float, distance: float, limit: float) -> float:
    """The estimate in one dimension: the margin is (distance - r) ** power, no step is longer than twice the limit, and no
    estimate of the tangent below 1e-3 (0.255 steps)."""

    def margin(r: float) -> float:
        return float(np.sign(distance - r) * abs(distance - r) ** power)

    radius, above, below = distance / power, np.inf, 0.255
    for _ in range(3):
        step = min(radius, 2 * limit)
        above = min(above, step * margin(0) / (margin(0) - margin(step)))
        below = max(below, step + margin(step) / (power * abs(distance - step) ** (power - 1)))
        radius = float(np.sqrt(above * below))
    return radius


@pytest.mark.parametrize("limit", [2.0, 8.0, 64.0])
@pytest.mark.parametrize("power", [1 / 3, 1.0, 3.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_estimate_is_that_of_secant_and_tangent(power: float, limit: float, targeted: bool) -> None:
    """In steps of 1/255, from 20 gradients for 5 images; exact on a linear model."""
    model = Bent(power)
    distance = torch.tensor([0.7, 3.3, 9.4, 20.2, 40.6])
    across = model.linear.weight[1] - model.linear.weight[0]
    middle = -(model.linear.bias[1] - model.linear.bias[0]) / across.abs().sum()
    image = (0.5 + (middle + distance / 255)[:, None] * across.sign()).detach().view(5, 3, 6, 6)
    label = torch.ones(5, dtype=torch.long)
    goal = 1 - label if targeted else -label
    eps = torch.full((5,), limit / 255)
    rows = Batch(image, label, eps, torch.arange(5), torch.zeros_like(label), model(image).detach(), goal)
    oracle = Oracle(model)
    found = 255 * estimate_threshold(rows, NORMS["linf"], oracle)
    assert found.tolist() == pytest.approx([estimated(power, d, limit) for d in distance.tolist()], rel=2e-3)
    assert oracle.gradients == 20
    if power == 1:
        assert found.tolist() == pytest.approx(distance.tolist(), rel=2e-3)


def problem(model: Callable[[Tensor], Tensor], image: Tensor, label: Tensor, goal: int = -1) -> Batch:
    eps = torch.full((len(label),), 0.5)
    with torch.no_grad():
        clean = model(image)
    return Batch(image, label, eps, torch.arange(len(label)), torch.zeros_like(label), clean, torch.full_like(label, goal))


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_the_estimate_on_a_linear_model_is_the_distance_in_every_norm(norm: str) -> None:
    model = Linear(2)
    image, label = linear_data(model, 40)
    exact = exact_distance(model, image, label, norm)
    near = (exact > 2e-3) & (exact < 0.1)  # the least estimate of the tangent is 1e-3
    assert near.sum() > 10
    found = estimate_threshold(problem(model, image[near], label[near]), NORMS[norm], Oracle(model))
    assert found.tolist() == pytest.approx(exact[near].tolist(), rel=2e-3)


def test_what_is_beyond_the_boundary_already_breaks_at_once() -> None:
    model = Linear(2)
    image, label = linear_data(model, 40)
    wrong = model(image).argmax(1) != label
    assert wrong.any()
    assert estimate_threshold(problem(model, image[wrong], label[wrong]), NORMS["linf"], Oracle(model)).eq(0).all()


@pytest.mark.parametrize("side", [0.0, 1.0])
def test_the_estimate_knows_where_the_box_ends(side: float) -> None:
    """Half of the pixels cannot move the way they should. What remains breaks at twice the radius that the gradient promises:
    this is the secant's zero and that the tangent's, and the estimate their geometric mean."""
    promised, image = 0.05, torch.full((1, 3, 4, 4), 0.5)
    image[..., :2] = side

    def model(query: Tensor) -> Tensor:
        gained = ((query - image) if side else (image - query)).flatten(1).sum(1)
        return torch.stack([promised * image.numel() - gained, torch.zeros(1)], dim=1)

    found = estimate_threshold(problem(model, image, torch.tensor([0])), NORMS["linf"], Oracle(model))
    assert found.tolist() == pytest.approx([2**0.5 * promised], rel=1e-4)


@pytest.mark.parametrize("goal", [0, 2])
def test_the_estimate_for_a_target_is_the_distance_to_it_and_not_to_a_nearer_class(goal: int) -> None:
    """The left half of the pixels leads to the target, the right half to the third class, at half the distance."""
    distance, image = 0.05, torch.full((1, 3, 4, 4), 0.5)

    def model(query: Tensor) -> Tensor:
        left, right = (query - image)[..., :2].flatten(1).sum(1), (query - image)[..., 2:].flatten(1).sum(1)
        logits = 100 * torch.stack([left - 24 * distance, torch.zeros(1), right - 24 * distance / 2], dim=1)
        return logits.flip(1) if goal == 2 else logits

    found = estimate_threshold(problem(model, image, torch.tensor([1]), goal), NORMS["linf"], Oracle(model))
    assert found.tolist() == pytest.approx([distance], rel=1e-3)
