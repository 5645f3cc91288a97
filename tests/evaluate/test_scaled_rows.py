"""Rows that no run was made for, and what a chain, restarts and zero gradients leave in them.

The attacks here push one channel up and look at nothing, and how far the true class then leads is read from a table: every
margin is known. Radii and tables are in units of 1/256, which float32 adds without rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_models import Linear
from torch import Tensor, nn

from robustatt.attack import recipe_files
from robustatt.attack.base import Attack, Batch, ExternalAttack, MinimumNormAttack, ModelOutput, Oracle, State, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.losses import log_odds
from robustatt.attack.norms import NORMS, per_row
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate import threshold_search
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.threshold_search import GridSearch

UNIT, RADII = 1 / 256, 12

#: how far the true class leads when a channel is pushed by 0, 1, ... 12 units
TO_TEN = [20, 18, 16, 14, 12, 10, 8, 6, 4, 2, -3, -5, -7]
NEVER = [20] * 13


def changed(table: list[int], **at: int) -> list[int]:
    """The table with other values at some radii: ``changed(TO_TEN, r3=-1)``."""
    return [at.get(f"r{radius}", lead) for radius, lead in enumerate(table)]


class Leads(nn.Module):
    """Class 1 leads by what the table of each channel says, whichever says less; between two entries it is linear."""

    def __init__(self, *tables: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("tables", torch.tensor(tables))

    def forward(self, image: Tensor) -> Tensor:
        pushed = ((image.flatten(2).mean(2) - 0.5) / UNIT)[:, : len(self.tables)].clamp(0, RADII)
        below = pushed.detach().floor().long().clamp_max(RADII - 1)
        channels = torch.arange(len(self.tables))
        low, high = self.tables[channels, below], self.tables[channels, below + 1]
        lead = (low + (high - low) * (pushed - below)).amin(1)
        return torch.stack([-lead / 2, lead / 2], dim=1)


class Exchanged(nn.Module):
    """A model whose two classes have each other's numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image).flip(1)
        return logits


def pushed(image: Tensor, channel: int, by: Tensor) -> Tensor:
    moved = image.clone()
    moved[:, channel] += per_row(by, moved[:, channel])
    return moved


class Push(SteppedAttack):
    """One step, whatever the model says: a channel moves by a share of the radius, another share in each restart."""

    steps, loss, needs_gradient = 1, staticmethod(log_odds), False

    def __init__(self, name: str, channel: int = 0, shares: Sequence[float] = (1.0,), *, zero_gradient: bool = False) -> None:
        super().__init__(name, NORMS["linf"])
        self.channel, self.shares, self.zero_gradient = channel, torch.tensor(shares), zero_gradient
        self.restarts = len(shares)
        self.asked: list[tuple[int, int, int]] = []  # (example, radius in units, restart) of every run

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        del rng
        radii = (batch.eps / UNIT).round().int().tolist()
        self.asked += zip(batch.index.tolist(), radii, batch.restart.tolist(), strict=True)
        assert len(set(self.asked)) == len(self.asked), "no run is made twice"
        return State(image=batch.image, zero_gradient=torch.full_like(batch.eps, float(self.zero_gradient)))

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        del output
        return State(state, image=pushed(batch.image, self.channel, self.shares[batch.restart] * batch.eps))

    def candidate(self, state: State) -> Tensor:
        return state["image"]

    @property
    def radii(self) -> list[int]:
        """The radii that were attacked, in order."""
        return [radius for _, radius, _ in self.asked]


@dataclass(frozen=True)
class Found:
    """What a search found of examples that are all alike: the columns of one of them, and how many were reported as done."""

    search: GridSearch
    done: int

    def __getitem__(self, column: str) -> np.ndarray:
        values = self.search.ledger.columns[column]
        assert (values == values[0]).all()
        return np.asarray(values[0])

    @property
    def margins(self) -> list[float]:
        return [float(margin) for margin in self["adv_margin"].round(3)]

    @property
    def attacked(self) -> list[int]:
        """The radii, in units, whose rows are backed by a run, or by an image scaled out that broke the example."""
        return [int(place) + 1 for place in np.flatnonzero(self["attacked"])]


Search = Callable[..., Found]


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Search:
    def run(
        model: nn.Module, *parts: Attack, estimate: float = 10, examples: int = 1, batch_size: int = 2,
        independent: bool = False, goal: int = -1,
    ) -> Found:  # fmt: skip
        """A search over radii of 1 to 12 units that begins at the radius `estimate`. The class to reach, `goal`, is any but 1, or the one named."""
        monkeypatch.setattr(threshold_search, "estimate_threshold", lambda batch, *_: torch.full_like(batch.eps, estimate * UNIT))
        image, label, done = torch.full((examples, 3, 2, 2), 0.5), torch.full((examples,), 0 if goal == 1 else 1), list[int]()
        radii = torch.arange(1, RADII + 1) * UNIT
        with frozen(model, "leads", torch.device("cpu"), image) as classifier:
            target = AttackedBatch(
                classifier, NORMS["linf"], "push", image, label, torch.arange(examples), radii, batch_size, maps=False
            )
            target.target_class.fill_(goal)
            grid = GridSearch(
                target, parts, Oracle(classifier.logits), lambda name: ExampleRng(0, name), done.append, independent
            )
            grid.run()
        return Found(grid, sum(done))

    return run


# Below and above the threshold ----------------------------------------------------------------------------


def test_one_run_below_a_right_estimate_serves_every_row(search: Search) -> None:
    attack = Push("push")
    found = search(Leads(TO_TEN), attack)
    assert attack.radii == [9]
    assert found.attacked == [9, 10]
    assert found.margins == [18, 16, 14, 12, 10, 8, 6, 4, 2, -3, -3, -3]
    assert found["distance"] / UNIT == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10])
    assert "broken_by" not in found.search.ledger.columns


def test_what_a_scaled_image_breaks_at_a_smaller_radius_is_the_threshold(search: Search) -> None:
    """The model is wrong at 3 units, right again up to 9: the image that failed at 9 breaks it, and 2 is attacked then."""
    attack = Push("push")
    found = search(Leads(changed(TO_TEN, r3=-1)), attack)
    assert attack.radii == [9, 2]
    assert found.margins == [18, 16, *[-1] * 7, -3, -3, -3], "from 10 units on what broke it there"
    assert found.attacked == [2, 10]
    assert found.done == 1


def test_the_lowest_radius_at_which_scaled_images_break_counts(search: Search) -> None:
    found = search(Leads(changed(TO_TEN, r3=-1, r5=-2, r6=-2)), Push("push"))
    assert found.margins == [18, 16, *[-1] * 7, -3, -3, -3]


def test_what_held_below_the_new_threshold_is_not_attacked_again(search: Search) -> None:
    """A run held at 1 unit, where the search began, and the image that failed at 9 breaks the example at 2."""
    attack = Push("push")
    found = search(Leads(changed(TO_TEN, r2=-1, r3=16)), attack, estimate=2)
    assert attack.radii[0] == 1
    assert attack.radii.count(1) == 1
    assert found.margins[:2] == [18, -1]


def test_examples_that_fall_in_different_batches_are_all_searched_on(search: Search) -> None:
    attack = Push("push")
    found = search(Leads(changed(TO_TEN, r3=-1)), attack, examples=5, batch_size=3)
    assert sorted(attack.asked) == sorted((example, radius, 0) for example in range(5) for radius in (2, 9))
    assert found.margins == [18, 16, *[-1] * 7, -3, -3, -3]
    assert found.done == 5


# Where the search goes on -----------------------------------------------------------------------------------


def test_the_secant_through_two_margins_says_where_to_look(search: Search) -> None:
    """18 at 1 unit and 16 at 2 are 0 at 10: the next run is one below."""
    attack = Push("push")
    search(Leads(TO_TEN), attack, estimate=2)
    assert attack.radii == [1, 9]


@pytest.mark.parametrize("table", [changed(TO_TEN, r2=18), changed(TO_TEN, r2=19)], ids=["flat", "rising"])
def test_margins_that_do_not_fall_have_no_secant(table: list[int], search: Search) -> None:
    attack = Push("push")
    found = search(Leads(table), attack, estimate=2)
    assert attack.radii[:2] == [1, 2], "the shortest stride"
    assert found.margins[8:] == [2, -3, -3, -3]


@pytest.mark.parametrize("goal", [0, 1])
def test_the_margin_of_the_label_says_nothing_of_a_target(goal: int, search: Search) -> None:
    """Whichever of the two classes it is: strides that grow."""
    attack, model = Push("push"), Leads(TO_TEN)
    found = search(model if goal == 0 else Exchanged(model), attack, estimate=2, goal=goal)
    assert attack.radii[:5] == [1, 2, 4, 8, 12]
    assert found.margins == [18, 16, 14, 12, 10, 8, 6, 4, 2, -3, -3, -7], "a run of its own at 12"


# Chains and restarts ----------------------------------------------------------------------------------------

CHAINS = {
    "only the first": (TO_TEN, NEVER, [""] * 9 + ["first"] * 3),
    "only the second": (NEVER, [20, 18, 16, 14, *[-1] * 9], [""] * 3 + ["second"] * 9),
    "the second earlier": (TO_TEN, [20, 18, 16, 14, 12, 10, *[-1] * 7], [""] * 5 + ["second"] * 4 + ["first"] * 3),
    "the second by its scaled image": (TO_TEN, [20, 9, 8, -1, 6, 5, 4, 3, 2, 1, 1, 1, 1], ["", ""] + ["second"] * 7 + ["first"] * 3),
    "the first by its scaled image": (changed(TO_TEN, r3=-1), NEVER, ["", ""] + ["first"] * 10),
    "neither": (NEVER, [20, *[19] * 12], [""] * 12),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second", "credit"), CHAINS.values(), ids=CHAINS)
def test_each_row_of_a_chain_names_the_part_that_broke_it(
    first: list[int], second: list[int], credit: list[str], search: Search
) -> None:
    parts = Push("a/suite/first", 0), Push("second", 1)
    found = search(Leads(first, second), *parts, examples=3)
    assert found["broken_by"].tolist() == credit
    assert (found["adv_pred"] == 1).tolist() == [name == "" for name in credit]
    held = credit.count("")
    assert (0, held, 0) in parts[0].asked
    assert (0, held, 0) in parts[1].asked, "the last radius that holds does so under both"
    assert found.done == 3


class Logged(Push):
    """Notes in a common list which part takes a step with how many rows."""

    def __init__(self, name: str, channel: int, log: list[tuple[str, int]]) -> None:
        super().__init__(name, channel)
        self.log = log

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        self.log.append((self.name, len(batch)))
        return super().step(batch, state, output)


def test_a_later_part_waits_until_its_batch_is_full_and_then_goes_before_a_first_that_is_not(search: Search) -> None:
    log = list[tuple[str, int]]()
    search(Leads(TO_TEN, NEVER), Logged("first", 0, log), Logged("second", 1, log), examples=5, batch_size=2)
    assert log == [("first", 2), ("first", 2), ("second", 2), ("second", 2), ("first", 1), ("second", 1)]


def test_rows_below_are_made_of_the_part_that_came_nearest(search: Search) -> None:
    found = search(Leads(TO_TEN, [20, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1, 1]), Push("first", 0), Push("second", 1))
    assert found.margins == [9, 8, 7, 6, 5, 4, 3, 2, 1, -3, -3, -3]


def test_every_restart_is_run_once_and_the_nearest_image_kept(search: Search) -> None:
    attack = Push("push", shares=(0.5, 1.0, 0.25))
    found = search(Leads(TO_TEN), attack)
    assert attack.asked == [(0, 9, 0), (0, 9, 1), (0, 9, 2)]
    assert found.margins == [18, 16, 14, 12, 10, 8, 6, 4, 2, -3, -3, -3]


def test_a_restart_that_succeeds_is_the_last(search: Search) -> None:
    attack = Push("push", shares=(0.5, 1.0, 0.25))
    found = search(Leads(TO_TEN), attack, independent=True)
    assert attack.asked.count((0, 9, 2)) == 1
    assert (0, 10, 1) in attack.asked
    assert (0, 10, 2) not in attack.asked
    assert found.margins == TO_TEN[1:]


@pytest.mark.parametrize("zero_gradient", [True, False])
def test_a_scaled_image_had_the_gradients_of_its_run(zero_gradient: bool, search: Search) -> None:
    found = search(Leads(TO_TEN), Push("push", zero_gradient=zero_gradient))
    assert found["zero_grad"].tolist() == [zero_gradient] * 12


@pytest.mark.parametrize("chain", [False, True])
def test_no_image_is_held_once_its_row_is_settled(chain: bool, search: Search) -> None:
    parts = (Push("first"), Push("second", 1)) if chain else (Push("push", shares=(0.5, 1.0)),)
    found = search(Leads(TO_TEN, NEVER), *parts, examples=3, independent=True)
    assert found["attacked"].all()
    assert not found.search.images
    assert not found.search.makers


# Other kinds of attack --------------------------------------------------------------------------------------


class Nearest(MinimumNormAttack):
    """Looks at one image, 10 units away; noise in a channel that does not count shows whether it may draw."""

    steps, loss = 1, staticmethod(log_odds)

    def start(self, batch: Batch, rng: ExampleRng) -> State:
        image = pushed(batch.image, 0, torch.full_like(batch.eps, 10 * UNIT))
        image[:, 2] += UNIT * rng.uniform(batch)[:, 2]
        return State(image=image, nearest=image, distance=torch.full_like(batch.eps, torch.inf))

    def step(self, batch: Batch, state: State, output: ModelOutput) -> State:
        found, _ = self.seen(batch, state, state["image"], output.logits, output.slack)
        return found


class Foreign(ExternalAttack):
    def perturb(self, module: nn.Module, batch: Batch, seed: int) -> Tensor:
        assert module(batch.image).shape == (len(batch), 2)
        assert seed >= 0
        return pushed(batch.image, 0, batch.eps)


@pytest.mark.parametrize("kind", [Nearest, Foreign])
def test_other_kinds_of_attack_find_the_threshold(kind: type[Attack], search: Search) -> None:
    found = search(Leads(TO_TEN), kind("other", NORMS["linf"]), examples=3)
    assert found.margins == [18, 16, 14, 12, 10, 8, 6, 4, 2, -3, -3, -3]
    assert found.done == 3


@pytest.mark.parametrize(("kind", "beyond"), [(Nearest, [-3, -3, -3]), (Foreign, [-3, -5, -7])])
def test_they_attack_every_radius_afresh(kind: type[Attack], beyond: list[int], search: Search) -> None:
    found = search(Leads(TO_TEN), kind("other", NORMS["linf"]), independent=True)
    assert found["attacked"].all()
    assert found.margins == [18, 16, 14, 12, 10, 8, 6, 4, 2, *beyond]


# A linear model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_model_each_row_has_lost_its_radius_times_the_slope(norm: str) -> None:
    """One step with the gradient. In L-infinity also at the sides of the box and near them: a pixel goes as far as there is room
    at the radius of the run, and for a smaller one by the same share less as the radius."""
    model = Linear(2)
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(12, 3, 6, 6, generator=generator)
    image = (1.2 * image - 0.1).clamp(0, 1) if norm == "linf" else 0.3 + 0.4 * image
    with torch.no_grad():
        label = model(image).argmax(1)
        margin = -(model(image).diff()[:, 0] * (1 - 2 * label)).numpy()
        across = (model.weight[1] - model.weight[0]).view(3, 6, 6)
        down = torch.where(per_row(label, image) == 1, -across, across)
    unit = 2 / 255 if norm == "linf" else 0.01
    radii = torch.arange(1, 9) * unit
    attack = build(
        recipe_files.load("pgd").model_copy(update={"norm": norm, "steps": 1, "step_size": 1.0, "random_start": False}), 2
    )
    with frozen(model, "linear", torch.device("cpu"), image) as classifier:
        target = AttackedBatch(classifier, attack.norm, "pgd", image, label, torch.arange(12), radii, 5)
        columns = GridSearch(
            target, [attack], Oracle(classifier.logits), lambda name: ExampleRng(0, name), lambda _: None, False
        ).run().columns  # fmt: skip
    held = columns["adv_pred"] == label.numpy()[:, None]
    assert 10 < held.sum() < held.size - 10
    if norm == "linf":
        assert image.eq(0).any()
        assert image.eq(1).any()
    room = torch.where(down > 0, 1 - image, image)
    for example, place in np.argwhere(held):
        eps = float(radii[place])
        if norm == "l2":
            lost = eps * float(across.norm())
        else:
            source = float(radii[np.flatnonzero(columns["attacked"][example, place:])[0] + place])
            moved = torch.minimum(room[example], torch.tensor(source)) * (eps / source)
            lost = float((moved * across.abs()).sum())
        assert columns["adv_margin"][example, place] == pytest.approx(margin[example] - lost, abs=2e-5)
