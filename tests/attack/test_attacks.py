"""Every attack against a known answer: linear models, saturated and gradient-free ones, order and batch
size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import Linear, Rounded, digits_data, exact_distance, linear_data, trained_digits
from torch import Tensor, nn

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.algorithms import ALGORITHMS
from robustatt.attack.base import Attack, Batch, Chain, Oracle, SingleDirectionAttack, SteppedAttack
from robustatt.attack.builder import build
from robustatt.attack.rng import ExampleRng
from robustatt.eps import CLEAN, parse_grid, parse_radius, radius_values
from robustatt.errors import InputError

EPS = "1..12"
RADII = np.arange(1, 13) / 255


def short(name: str, **changes: Any) -> recipes.Recipe:
    """A shipped recipe made cheap enough for a test."""
    recipe = recipes.load(name)
    return type(recipe).model_validate({**recipe.model_dump(exclude_none=True), **changes})


def sweep(model: nn.Module, data: tuple[Tensor, Tensor], recipe: Any, eps: str = EPS, **options: Any) -> Any:
    """Bare numbers count steps of 1/255 in every norm here, as the linear models are made to that scale."""
    grid = ",".join(f"{radius.numerator}/{radius.denominator}" for radius in parse_grid(eps))
    return robustatt.sweep(model, data, attacks=[recipe], eps=grid, **options)


def wrong_at(result: Any) -> pd.DataFrame:
    """Whether each example (row) is misclassified at each radius (column)."""
    records = result.records
    wrong = records.assign(wrong=records.adv_pred != records.label)
    table = wrong.pivot_table(index="index", columns="eps", values="wrong", sort=False)
    return table.drop(columns=CLEAN).astype(bool)


EXACT = ["fgsm", "pgd", "mi-fgsm", "ni-fgsm", "apgd-ce", "fgsm-l2", "pgd-l2"]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", EXACT)
def test_linear_oracle_is_met_exactly(name: str, classes: int) -> None:
    """With several classes the nearest boundary is found by climbing the margin to the best other class."""
    model = Linear(classes)
    image, label = linear_data(model, 60)
    recipe = short(name, loss="stable" if classes == 2 else "margin")
    exact = exact_distance(model, image, label, recipe.norm).numpy()
    wrong = wrong_at(sweep(model, (image, label), recipe)).to_numpy()
    sure = np.abs(exact[:, None] - RADII) > 1e-5
    breaks = exact[:, None] < RADII
    if classes == 2:
        assert (wrong == breaks)[sure].all()
    else:
        assert not (wrong & ~breaks)[sure].any()  # nothing can beat the optimum


@pytest.mark.parametrize(("name", "classes"), [("apgd-dlr", 3), ("apgd-t", 4), ("fab-t", 4), ("fmn", 2), ("fab-t", 2)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_and_minimum_norm_attacks_come_within_one_percent(name: str, classes: int, norm: str) -> None:
    model = Linear(classes)
    image, label = linear_data(model, 20)
    eps = EPS if norm == "linf" else "10..120:10"
    radii = RADII if norm == "linf" else np.arange(10, 121, 10) / 255
    exact = exact_distance(model, image, label, norm).numpy()
    wrong = wrong_at(sweep(model, (image, label), short(name, norm=norm), eps)).to_numpy()
    assert not wrong[exact[:, None] > radii + 1e-5].any()
    margin = 1.01 if name != "apgd-dlr" else 1.1  # DLR's own scale pulls three-class runs off the nearest class
    assert wrong[exact[:, None] * margin < radii].all()


def test_minimum_norm_distances_are_within_one_percent_of_the_exact_ones() -> None:
    model = Linear(2)
    image, label = linear_data(model, 40)
    for name, norm in [("fab-t", "linf"), ("fab-t", "l2"), ("fab-t", "l1"), ("fmn", "linf"), ("fmn", "l2")]:
        exact = exact_distance(model, image, label, norm)
        recipe = short(name, norm=norm, **({"step_size": 0.3} if norm == "l2" and name == "fmn" else {}))
        records = sweep(model, (image, label), recipe, "255").records
        found = records[records.eps != CLEAN].set_index("index").distance.to_numpy()
        right = exact.numpy() > 0
        assert found[right] == pytest.approx(exact.numpy()[right], rel=0.01, abs=1e-5), (name, norm)
        assert (found[right] >= exact.numpy()[right] - 1e-5).all()


def test_sparse_apgd_meets_the_linear_oracle_in_l1() -> None:
    """Away from the box the nearest mistake changes one pixel, by the margin over the largest weight."""
    model = Linear(2)
    image, label = linear_data(model, 30)
    exact = exact_distance(model, image, label, "l1").numpy()
    right = exact > 0
    middle = int(np.median(exact[right]) * 255)
    eps = f"{middle // 2}..{middle * 2}:{max(1, middle // 4)}"
    table = wrong_at(sweep(model, (image, label), short("apgd-l1", steps=60), eps))
    radii = np.array([float(parse_radius(text)) for text in table.columns])
    wrong = table.to_numpy()
    assert not wrong[exact[:, None] > radii * (1 + 1e-5)].any()
    assert wrong[exact[:, None] * 1.01 < radii].all()
    assert 0.1 < wrong.mean() < 0.9


def knapsack(model: Linear, image: Tensor, label: Tensor) -> np.ndarray:
    """The least L1 change within the box that brings each image of a two-class model to the boundary: the pixels of the
    largest weight first, each as far as the box lets it."""
    weight = model.weight.detach().double().numpy()
    with torch.no_grad():
        logits = model(image).double().numpy()
    found = []
    for pixels, true, scores in zip(image.flatten(1).double().numpy(), label.tolist(), logits, strict=True):
        slope, missing, spent = weight[1 - true] - weight[true], scores[true] - scores[1 - true], 0.0
        room = np.where(slope > 0, 1 - pixels, pixels)
        for best in np.argsort(-np.abs(slope)):
            gain = abs(slope[best]) * room[best]
            spent += room[best] * min(missing / gain, 1) if gain > 0 else 0
            missing -= gain
            if missing <= 0:
                break
        found.append(spent if missing <= 0 else np.inf)
    return np.array(found)


@pytest.mark.parametrize(
    ("name", "changes", "margin"),
    [
        ("apgd-l1", {"steps": 60}, 1.05),
        ("apgd-l1", {"steps": 60, "larger_radii": True}, 1.05),
        ("square-l1", {"queries": 400}, 2.5),
        ("autoattack-l1", {"steps": 20, "targets": 1, "queries": 20}, 1.01),
    ],
)
def test_attacks_in_l1_against_the_optimum_within_the_box(name: str, changes: dict[str, Any], margin: float) -> None:
    """The images fill the box, so its walls stop the best pixels: the optimum is a knapsack."""
    model = Linear(2)
    image = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        label = model(image).argmax(1)
    exact = knapsack(model, image, label)
    radii = np.array([0.5, 1, 2, 3, 4, 8, 12]) * float(np.median(exact)) / 2
    records = robustatt.sweep(model, (image, label), attacks=[short(name, **changes)], eps=list(radii)).records
    records = records[records.eps != CLEAN].assign(wrong=records.adv_pred != records.label)
    wrong = records.pivot_table(index="index", columns="eps", values="wrong", sort=False).to_numpy().astype(bool)
    assert not wrong[exact[:, None] > radii * (1 + 1e-5)].any()
    assert wrong[exact[:, None] * margin < radii].all()
    assert 0.2 < wrong.mean() < 0.9


@pytest.mark.parametrize(
    ("name", "changes", "margin"),
    [
        ("deepfool", {"steps": 3}, 1.03),
        ("cw-l2", {"steps": 60, "step_size": 0.001}, 1.05),
        ("ead-l1", {"steps": 60}, 1.2),
        ("boundary", {"queries": 1500}, 2.0),
    ],
)
def test_classic_minimum_norm_attacks_come_near_the_linear_optimum(name: str, changes: dict[str, Any], margin: float) -> None:
    """Carlini & Wagner's step must be small against the distances, which are 0.002 to 0.08 here."""
    model = Linear(2)
    image, label = linear_data(model, 8)
    recipe = short(name, **changes)
    exact = exact_distance(model, image, label, recipe.norm).numpy()
    records = robustatt.sweep(model, (image, label), attacks=[recipe], eps=[30.0]).records
    found = records[records.eps != CLEAN].set_index("index").distance.to_numpy()
    right = exact > 0
    assert right.sum() == 7
    assert (found[right] >= exact[right] - 1e-5).all()
    assert (found[right] <= exact[right] * margin + 1e-3).all(), found[right] / exact[right]


def test_deepfool_crosses_the_boundary_where_the_box_takes_a_part_of_each_step() -> None:
    """Black and white pixels move one way only. Each step makes a part of its way, and a share of what is left never crosses."""
    model = Linear(2)
    image = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    image[..., :4] = image[..., :4].round()
    with torch.no_grad():
        label = model(image).argmax(1)
    rows = {}
    for beyond in (0.0, 1e-4):
        records = robustatt.sweep(model, (image, label), attacks=[short("deepfool", beyond=beyond)], eps=[30.0]).records
        rows[beyond] = records[records.eps != CLEAN]
    assert (rows[0.0].adv_pred == rows[0.0].label).any()
    assert (rows[1e-4].adv_pred != rows[1e-4].label).all()


@pytest.mark.parametrize("name", ["di-fgsm", "ti-fgsm", "vmi-fgsm", "spsa"])
def test_transfer_attacks_and_spsa_are_bounded_by_the_linear_optimum_and_beat_noise(name: str) -> None:
    """Their detours cost strength on the model itself; vmi-fgsm sees the same gradient everywhere, and loses nothing."""
    model = Linear(2)
    image, label = linear_data(model, 24)
    exact = exact_distance(model, image, label, "linf").numpy()
    recipe = short(name, **({"steps": 10, "samples": 16} if name == "spsa" else {}))
    wrong, noise = (wrong_at(sweep(model, (image, label), attack, "1..12:3")).to_numpy() for attack in (recipe, "sign-noise"))
    assert not wrong[exact[:, None] > RADII[::3] + 1e-5].any()
    assert wrong.sum() > noise.sum()
    if name == "vmi-fgsm":
        sure = np.abs(exact[:, None] - RADII[::3]) > 1e-5
        assert (wrong == (exact[:, None] < RADII[::3]))[sure].all()


def test_square_finds_the_linear_optimum_within_a_few_percent() -> None:
    model = Linear(2)
    image, label = linear_data(model, 24)
    exact = exact_distance(model, image, label, "linf").numpy()
    wrong = wrong_at(sweep(model, (image, label), short("square", queries=1000))).to_numpy()
    assert not wrong[exact[:, None] > RADII + 1e-5].any()
    assert wrong[exact[:, None] * 1.1 < RADII].all()


def test_square_l2_gains_on_noise_and_stays_in_the_ball() -> None:
    model = Linear(2)
    image, label = linear_data(model, 24)
    exact = exact_distance(model, image, label, "l2").numpy()
    radii = np.arange(20, 161, 20) / 255
    wrong = wrong_at(sweep(model, (image, label), short("square-l2", queries=250), "20..160:20")).to_numpy()
    assert not wrong[exact[:, None] > radii + 1e-5].any()
    noise = wrong_at(sweep(model, (image, label), short("sign-noise", norm="l2"), "20..160:20")).to_numpy()
    assert wrong.sum() > 1.2 * noise.sum()


@pytest.mark.parametrize("classes", [2, 4])
def test_autoattack_meets_the_linear_oracle(classes: int) -> None:
    model = Linear(classes)
    image, label = linear_data(model, 12)
    recipe = short("autoattack", steps=30, queries=20)
    exact = exact_distance(model, image, label, "linf").numpy()
    for independent in (False, True):
        wrong = wrong_at(sweep(model, (image, label), recipe, "1..12:3", independent=independent)).to_numpy()
        sure = np.abs(exact[:, None] / RADII[::3] - 1) > 0.01
        assert (wrong == (exact[:, None] < RADII[::3]))[sure].all()


def test_r_fgsm_is_bounded_by_the_optimum_and_beats_noise() -> None:
    model = Linear(2)
    image, label = linear_data(model, 60)
    exact = exact_distance(model, image, label, "linf").numpy()
    noise = wrong_at(sweep(model, (image, label), "sign-noise")).to_numpy()
    for name in ("r-fgsm", "fgsm-rs"):
        wrong = wrong_at(sweep(model, (image, label), name)).to_numpy()
        assert not wrong[exact[:, None] > RADII + 1e-5].any()
        assert wrong.sum() > noise.sum() + 50


@pytest.mark.parametrize("name", ["noise", "sign-noise"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_controls_have_the_size_they_claim(name: str, norm: str) -> None:
    model = Linear(2)
    image, label = linear_data(model, 12)
    records = sweep(model, (image, label), short(name, norm=norm), "4,8").records
    attacked = records[records.attacked]
    eps = radius_values(attacked.eps)
    assert (attacked.distance <= eps + 1e-6).all()
    if name == "sign-noise":
        assert attacked.distance.to_numpy() == pytest.approx(eps.to_numpy(), rel=1e-4)


CHEAP: dict[str, dict[str, Any]] = {
    "fgsm": {}, "r-fgsm": {}, "fgsm-rs": {}, "mi-fgsm": {}, "pgd": {"steps": 8, "restarts": 2}, "pgd-l2": {"steps": 8},
    "ni-fgsm": {}, "apgd-ce": {"steps": 12}, "apgd-l1": {"steps": 12}, "apgd-dlr": {"steps": 12}, "apgd-t": {"steps": 6, "targets": 2},
    "fab-t": {"steps": 6, "targets": 2}, "fmn": {"steps": 12}, "square": {"queries": 25}, "square-l2": {"queries": 15},
    "di-fgsm": {}, "ti-fgsm": {}, "vmi-fgsm": {"steps": 4, "neighbours": 2}, "deepfool": {"steps": 6}, "cw-l2": {"steps": 8, "searches": 2},
    "ead-l1": {"steps": 8, "searches": 2}, "spsa": {"steps": 3, "samples": 4}, "boundary": {"queries": 60},
    "square-l1": {"queries": 15}, "autoattack-l1": {"steps": 5, "targets": 2, "queries": 8},
    "noise": {}, "sign-noise": {}, "autoattack": {"steps": 5, "targets": 2, "queries": 12},
    "autoattack-l2": {"steps": 5, "targets": 2, "queries": 8}, "autoattack-rand": {"steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained_digits()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    image, label = digits_data()
    return image[-500:], label[-500:]


def test_every_shipped_attack_is_tested_here() -> None:
    elsewhere = {"attention", "attention-keep"}  # test_attention_attack: they need a network that attends
    assert set(CHEAP) | {"fgsm-l2", "fab-t-l2"} | elsewhere == set(recipes.shipped())
    assert {recipes.load(name).algorithm for name in {*CHEAP, *elsewhere}} == set(ALGORITHMS)


@pytest.mark.parametrize("name", sorted(CHEAP))
def test_batch_size_changes_nothing(name: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Randomness belongs to the example and rows do not see each other: another batch size gives the same
    records."""
    recipe = short(name, **CHEAP[name])
    eps = {"linf": "8,16,24,32", "l2": "20,60,100", "l1": "600,1500,4000"}[recipe.norm]
    image, label = data[0][:14], data[1][:14]
    whole = sweep(net, (image, label), recipe, eps, batch_size=64).records
    small = sweep(net, (image, label), recipe, eps, batch_size=5).records
    same = ["adv_pred", "attacked", "zero_grad"]
    pd.testing.assert_frame_equal(whole[same], small[same])
    np.testing.assert_allclose(whole.adv_margin, small.adv_margin, atol=2e-3)


def proposals(attack: Attack, rows: Batch, net: nn.Module) -> Tensor:
    """Where an attack stands after a few answers, a row each."""
    oracle, noise = Oracle(net), ExampleRng(0, attack.name)
    if isinstance(attack, SingleDirectionAttack):
        return attack.direction(rows, oracle, noise)[0]
    assert isinstance(attack, SteppedAttack)
    state = attack.start(rows, noise)
    for _ in range(min(4, attack.steps)):
        loss = attack.objective(rows, state)
        answer = oracle.query(attack.query(state), rows.label, loss, gradient=attack.needs_gradient)
        state = attack.step(rows, state, answer)
    return attack.query(state)


@pytest.mark.parametrize("name", sorted(CHEAP))
def test_rows_in_another_order_get_the_same_proposals(name: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:9], data[1][:9]
    with torch.no_grad():
        clean = net(image)
    index, zero = torch.arange(9), torch.zeros(9, dtype=torch.int64)
    eps = torch.linspace(0.02, 0.2, 9) * {"linf": 1, "l2": 10, "l1": 60}[recipes.load(name).norm]
    rows = Batch(image, label, eps, index, zero, clean, zero - 1)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 7, 3, 5])
    attack = build(short(name, **CHEAP[name]), 10)
    for part in attack.parts if isinstance(attack, Chain) else [attack]:
        straight, shuffled = proposals(part, rows, net), proposals(part, rows.select(order), net)
        off = (shuffled - straight[order]).abs().flatten(1)
        assert (off > 1e-4).float().mean() < 0.01, part.name  # a sign of a gradient that is zero to rounding


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-t", "fab-t", "square", "autoattack"])
def test_logits_times_200_change_nothing(name: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """A confident model is no more robust: nothing about the classifier changed."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = 200 * self.net(image)
            return logits

    image, label = data[0][:60], data[1][:60]
    # Rounding may turn a path elsewhere, but not systematically: losses with a temperature see another loss.
    changes = {**CHEAP[name], "loss": "margin"} if name in ("pgd", "apgd-ce") else CHEAP[name]
    plain = wrong_at(sweep(net, (image, label), short(name, **changes), "8,16,24,32"))
    scaled = wrong_at(sweep(Scaled(), (image, label), short(name, **changes), "8,16,24,32"))
    assert int((plain != scaled).sum().sum()) <= 3


def test_the_stable_loss_does_not_saturate_and_cross_entropy_does() -> None:
    model = Linear(2)
    image, label = linear_data(model, 60)
    exact = exact_distance(model, image, label, "linf").numpy()
    sure = np.abs(exact[:, None] - RADII) > 1e-5
    confident = Linear(2, scale=20000.0)
    for name in ("fgsm", "pgd", "apgd-ce", "mi-fgsm"):
        wrong = wrong_at(sweep(confident, (image, label), name)).to_numpy()
        assert (wrong == (exact[:, None] < RADII))[sure].all(), name
    weaker = wrong_at(sweep(confident, (image, label), short("fgsm", loss="ce"))).to_numpy()
    assert weaker.sum() < wrong.sum()


def test_without_gradients_square_beats_pgd_and_the_run_says_so(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:40], data[1][:40]
    result = robustatt.sweep(Rounded(net), (image, label), attacks=["pgd", short("square", queries=300)], eps="24,32")
    pgd, square = result.curve("pgd"), result.curve("square")
    assert square.accuracy.iloc[-1] < pgd.accuracy.iloc[-1] - 0.2
    assert any(warning.code == "zero_gradient" or "gradient" in warning.message for warning in result.health)


def test_independent_radii_agree_with_the_threshold_search(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:30], data[1][:30]
    for name in ("apgd-ce", "autoattack", "fab-t"):
        recipe = short(name, **{**CHEAP[name], "steps": 12})
        searched = wrong_at(sweep(net, (image, label), recipe, "8,16,24,32,40"))
        afresh = wrong_at(sweep(net, (image, label), recipe, "8,16,24,32,40", independent=True))
        assert int((searched != afresh).sum().sum()) <= 4, name


class Wobbly(nn.Module):
    """A randomised model: noise on the input, drawn anew in every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image + 0.3 * torch.randn_like(image))
        return logits


def test_expectation_over_transformation_finds_more_on_a_randomised_model() -> None:
    model = Linear(2)
    image, label = linear_data(model, 60)
    from robustatt.attack.base import Oracle
    from robustatt.attack.losses import logit_margin

    oracle = Oracle(Wobbly(model))
    torch.manual_seed(0)
    once = oracle.query(image, label, logit_margin, gradient=True)
    assert oracle.gradients == 60
    mean = oracle.query(image, label, logit_margin, gradient=True, passes=50)
    assert oracle.gradients == 60 + 50 * 60
    truth = Oracle(model).query(image, label, logit_margin, gradient=True)
    assert (mean.logits - truth.logits).abs().mean() < 0.4 * (once.logits - truth.logits).abs().mean()
    assert mean.grad is not None
    assert truth.grad is not None
    torch.testing.assert_close(mean.grad, truth.grad)


@pytest.mark.parametrize("targeted", ["least-likely", "random", "next", 3])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-dlr", "square", "mi-fgsm"])
def test_targeted_attacks_reach_their_goal(name: str, targeted: str | int, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:30], data[1][:30]
    recipe = short(name, **{**CHEAP[name], "targeted": targeted, **({"queries": 200} if name == "square" else {})})
    records = sweep(net, (image, label), recipe, "128").records
    last = records[records.eps == "128/255"].set_index("index").sort_index()
    with torch.no_grad():
        clean = net(image)
    goal = {
        "least-likely": clean.argmin(1).numpy(), "next": ((label + 1) % 10).numpy(), 3: np.full(30, 3),
        "random": None,
    }[targeted]  # fmt: skip
    attacked = ((clean.argmax(1) == label) & (label != (3 if targeted == 3 else -1))).numpy()
    if goal is None:
        assert (last.adv_pred != last.label)[attacked].mean() > 0.4
    else:
        hit = (last.adv_pred.to_numpy() == goal)[attacked].mean()
        assert hit > (0.15 if name in ("fgsm", "square") else 0.7)


def test_explicit_targets_are_one_class_for_each_example(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:10], data[1][:10]
    targets = tuple(int(value) for value in (label + 4) % 10)
    records = sweep(net, (image, label), short("pgd", targeted=targets), "200").records
    last = records[records.eps == "200/255"]
    assert (last.adv_pred == np.array(targets)).mean() > 0.8


def test_targets_the_model_or_data_do_not_have_are_refused(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:10], data[1][:10]
    with pytest.raises(InputError, match=r"class 10, but the model has the classes 0 to 9"):
        sweep(net, (image, label), short("pgd", targeted=10))
    with pytest.raises(InputError, match="lists 3 classes, but example 9"):
        sweep(net, (image, label), short("pgd", targeted=(1, 2, 3)))


def test_dlr_is_refused_where_it_is_not_defined() -> None:
    model = Linear(2)
    image, label = linear_data(model, 10)
    for name in ("apgd-dlr", "apgd-t"):
        with pytest.raises(InputError, match=r'needs .* classes or more and the model has 2: write loss = "margin"'):
            sweep(model, (image, label), name)


def test_an_attack_costs_nothing_for_examples_that_are_wrong_already() -> None:
    from robustatt.attack.norms import NORMS
    from robustatt.evaluate.batch import AttackedBatch
    from robustatt.evaluate.classifier import frozen
    from robustatt.evaluate.threshold_search import GridSearch

    model = Linear(4)
    image, label = linear_data(model, 9)
    label = (label + torch.tensor([0, *[1] * 8])) % 4
    with frozen(model, "m", torch.device("cpu"), image) as classifier:
        target = AttackedBatch(classifier, NORMS["linf"], "a", image, label, torch.arange(9), torch.tensor([0.5]), 4)
        right = int(target.correct.sum())
        oracle = Oracle(classifier.logits)
        GridSearch(target, [build(short("pgd"), 4)], oracle, lambda _: ExampleRng(0, "a"), lambda _: None, False).run()  # type: ignore[list-item]
    assert right <= 1
    assert oracle.gradients <= 41 * right
