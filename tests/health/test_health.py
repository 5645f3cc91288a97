"""Health checks: every planted mistake is named, no healthy model is accused, and each rule at its threshold."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from paths import ROOT
from planted import layers, nets
from planted.cases import HEALTHY, MISTAKES, Case
from synthetic_records import broken_records
from tiny_models import images
from torch import nn

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.data import TensorDataset
from robustatt.health.data import card_mismatch, first_classes, same_set, seen_in_training
from robustatt.health.labels import label_order
from robustatt.health.model import check_model
from robustatt.health.records import check_records
from robustatt.health.warning import CODES, HealthWarning, distinct
from robustatt.models import Card

DOCS = ROOT / "docs" / "health.md"
CHEAP = [case for case in MISTAKES if not case.deep]
COSTLY = [pytest.param(case, marks=pytest.mark.slow, id=case.name) for case in MISTAKES if case.deep]
QUICK = ("convolutions, BatchNorm, dropout", "softmax regression", "bundled vgg")
SILENT = [pytest.param(case, id=case.name, marks=() if case.what in QUICK else pytest.mark.slow) for case in HEALTHY]


@pytest.mark.parametrize("case", CHEAP, ids=lambda case: case.name)
def test_a_sweep_names_the_mistake(case: Case) -> None:
    found = case.find()
    assert case.code in {warning.code for warning in found}
    assert_told(found)


@pytest.mark.parametrize("case", COSTLY)
def test_an_attack_names_the_mistake(case: Case) -> None:
    found = case.find()
    assert case.code in {warning.code for warning in found}
    assert_told(found)


def assert_told(found: Sequence[HealthWarning]) -> None:
    """Each warning says in numbers what was found, and what to do."""
    for warning in found:
        assert re.search(r"\d", warning.finding), warning.message
        assert warning.finding[-1] in ".?", warning.message
        assert len(warning.advice.split()) >= 3, warning.message
        assert warning.advice[0].isupper(), warning.message
        assert warning.advice[-1] in ".?", warning.message
        assert warning.evidence, warning.code
        assert all(np.isfinite(number) for number in warning.evidence.values()), warning.evidence


@pytest.mark.parametrize("case", SILENT)
def test_a_healthy_model_is_not_accused(case: Case) -> None:
    if case.lacking:
        pytest.skip(case.lacking)
    assert [warning.message for warning in case.find()] == []


def test_a_planted_mistake_spoils_no_other_case() -> None:
    """BatchNorm that counts in one case leaves the networks of the others as they were trained."""
    image, _ = nets.held_out(8)
    before = nets.trained(nets.convolutional)(image.float() / 255)
    stuck = next(case for case in MISTAKES if case.what == "BatchNorm in train mode").model()
    for _ in range(5):
        stuck(image.float() / 255)
    assert torch.equal(nets.trained(nets.convolutional)(image.float() / 255), before)


def test_every_code_is_planted_and_documented() -> None:
    assert {case.code for case in MISTAKES} == set(CODES)
    assert set(re.findall(r"^\| `([a-z-]+)` \|", DOCS.read_text(), re.MULTILINE)) == set(CODES)


def test_a_warning_says_what_it_found_and_what_to_do() -> None:
    found = check_model(nn.Sequential(nets.trained(nets.linear), nn.Softmax(1)), "mine", _probe()[0])
    assert [(entry.code, entry.model, entry.attack) for entry in found] == [("probabilities", "mine", "")]
    assert found[0].evidence["largest_gap_to_1"] < 1e-3
    assert HealthWarning.from_dict(found[0].as_dict()).as_dict() == found[0].as_dict()


def _probe() -> tuple[torch.Tensor, torch.Tensor]:
    image, label = nets.held_out()
    return image.float() / 255, label


def test_training_mode_alone_is_no_mistake() -> None:
    """A linear model has nothing that behaves differently; BatchNorm has, and is told only where predictions change."""
    image, label = _probe()
    fresh = nets.linear().train()
    assert "training-mode" not in {w.code for w in robustatt.sweep(fresh, (image, label), eps="2").health}
    assert fresh.training
    without = nn.Sequential(nn.Dropout(0.0), nets.trained(nets.linear, 400)).train()
    assert [w.code for w in check_model(without, "mine", image, label)] == []


def test_looking_at_a_model_changes_nothing() -> None:
    image, label = _probe()
    model = nets.convolutional().train()
    flags = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_model(model.eval(), "mine", image, label, model.train())
    robustatt.sweep(model, (image, label), eps="2")
    assert flags == [part.training for part in model.modules()]
    assert not any(part._forward_pre_hooks for part in model.modules())
    frozen = {name: tensor for name, tensor in before.items() if "running" not in name and "num_batches" not in name}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in frozen.items())


def test_one_class_of_images_proves_no_other_range() -> None:
    """A model that always gives one class gains everything on images of that class alone: nothing may be said."""
    image, _ = _probe()

    class Threshold(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.flatten(1).mean(1)
            return torch.stack([1 - bright, bright * 0.5 + 0.1], 1)

    assert check_model(Threshold(), "mine", image, torch.ones(len(image), dtype=torch.int64)) == []


def _first(count: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < count


@pytest.mark.parametrize(("missed", "codes"), [(4, []), (5, ["iterative-weaker"])])
def test_iterative_weaker_at_its_threshold(missed: int, codes: list[str]) -> None:
    one, many = _first(40 + missed), _first(40)
    found = check_records(broken_records({"fgsm": one[:, None], "pgd": many[:, None]}, ["4/255"]))
    assert [warning.code for warning in found] == codes


@pytest.mark.parametrize(("alone", "codes"), [(4, []), (5, ["black-box-stronger"])])
def test_black_box_stronger_at_its_threshold(alone: int, codes: list[str]) -> None:
    found = check_records(broken_records({"square": _first(30 + alone)[:, None], "pgd": _first(30)[:, None]}, ["4/255"]))
    assert [warning.code for warning in found] == codes


def test_square_beyond_fgsm_alone_is_no_mistake() -> None:
    found = check_records(broken_records({"square": _first(60)[:, None], "fgsm": _first(30)[:, None]}, ["4/255"]))
    assert found == []


def test_noise_as_strong() -> None:
    table = {"sign-noise": _first(10)[:, None], "pgd": ~_first(92)[:, None]}
    assert [warning.code for warning in check_records(broken_records(table, ["4/255"]))] == ["noise-as-strong"]
    table["pgd"] = ~_first(50)[:, None]
    assert check_records(broken_records(table, ["4/255"])) == []


def test_accuracy_rising_allows_an_overshoot() -> None:
    for back, codes in ((9, []), (20, ["accuracy-rising"])):
        grid = np.stack([_first(50), _first(50 - back)], 1)
        assert [w.code for w in check_records(broken_records({"fgsm": grid}, ["4/255", "8/255"]))] == codes


def test_half_the_range_proves_an_attack_wrong() -> None:
    """At 0.5 one class of ten may survive, 10 of 100 images, and not one more."""
    for held, codes in ((10, []), (11, ["not-broken-at-half"])):
        grid = ~_first(held)[:, None]
        assert [w.code for w in check_records(broken_records({"pgd": grid}, ["127.5/255"]))] == codes
    assert check_records(broken_records({"pgd": ~_first(40)[:, None]}, ["64/255"])) == []


def test_labels_in_order_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 300)
    noisy = np.where(rng.random(300) < 0.5, truth, rng.integers(0, 10, 300))
    assert label_order(truth, noisy, "m") is None
    assert label_order(truth, np.zeros(300, np.int64), "m") is None, "a model that always says one class"
    assert label_order(truth, rng.integers(0, 10, 300), "m") is None, "a model at chance"
    assert label_order(np.arange(1000) % 1000, np.roll(np.arange(1000), 1), "m") is None, "too few of each class"
    skewed = (rng.random(300) < 0.9).astype(np.int64)
    assert label_order(skewed, np.zeros(300, np.int64), "m") is None
    assert label_order(truth, (truth + 1) % 10, "m") is not None


def test_a_card_is_believed_within_chance() -> None:
    assert card_mismatch("m", 0.96, 50, 0.99) is None
    assert card_mismatch("m", 0.90, 20, 0.99) is None
    assert card_mismatch("m", 0.90, 500, 0.99) is not None
    assert card_mismatch("m", 0.97, 10_000, 0.99) is None, "two points are no other model"


def test_a_card_speaks_of_the_same_set_wherever_it_lies() -> None:
    card = Card(name="vgg", width=1, classes=2, class_names=("a", "b"), mean=(0, 0, 0), std=(1, 1, 1), data="/x/birds")
    image, label = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    for name, classes, same in (
        ("/y/birds", "ab", True),
        ("birds", "ab", True),
        ("/x/birds", "ac", False),
        ("b", "ab", False),
    ):
        assert same_set(card, TensorDataset(image, label, classes=tuple(classes), name=name)) == same


def test_a_natural_duplicate_is_no_leak() -> None:
    pictures = (images(300, 8) * 255).to(torch.uint8)
    test, train = pictures[:150], torch.cat([pictures[150:], pictures[:1]])
    assert seen_in_training("m", test, train) == []
    assert len(seen_in_training("m", test, pictures[140:])) == 1


def test_what_is_said_of_an_attack_is_not_said_again_of_its_model() -> None:
    entries = [HealthWarning("zero-gradient", "a", "", "m"), HealthWarning("zero-gradient", "b", "", "m", "fgsm")]
    assert distinct([*entries, *entries]) == entries[1:]
    assert distinct(entries[:1]) == entries[:1]


def test_a_smooth_model_has_an_honest_gradient() -> None:
    """Scaled logits, tiny gradients and clamped inputs do not shatter."""
    image, label = _probe()
    core = nets.trained(nets.perceptron)

    class Clamped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = core(x.clamp(0, 1))
            return result

    for model in (Clamped(), nn.Sequential(core, layers.Times(1e-4)), nn.Sequential(core, layers.Times(100.0))):
        assert "shattered-gradient" not in {w.code for w in check_model(model, "m", image, label)}


@pytest.mark.parametrize(("right", "said"), [(3, True), (11, False)])
def test_a_model_like_chance_is_named_in_a_sweep(right: int, said: bool) -> None:
    """30 images of 10 classes, 3 each: 3 right is a tenth, of 11 the interval begins above it."""
    batch = images(30, 12)
    label = torch.arange(30) % 10
    shown = torch.where(torch.arange(30) < right, label, (label + 1 + torch.arange(30) // 10) % 10)

    class Memory(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            near = -torch.cdist(image.flatten(1), batch.flatten(1))
            return 4 * (5 * near).softmax(1) @ nn.functional.one_hot(shown, 10).float() - 2

    found = {warning.code for warning in robustatt.sweep(Memory(), (batch, label), eps="1").health}
    assert ("chance-accuracy" in found) == said


def test_chance_is_not_named_where_something_explains_it() -> None:
    chance, reason = HealthWarning("chance-accuracy", "", "", "m"), HealthWarning("label-order", "", "", "m")
    assert distinct([chance, reason]) == [reason]
    assert distinct([chance, HealthWarning("label-order", "", "", "other")])[0] == chance


FOREIGN = {
    "ball-unused": {"algorithm": "torchattacks:PGDL2", "norm": "linf"},
    "iterative-weaker": {"algorithm": "torchattacks:PGD", "arguments": {"alpha": 1e-4, "steps": 3}},
    "": {"algorithm": "torchattacks:PGD", "arguments": {"steps": 10}, "shares": {"alpha": 0.2}},
}


@pytest.mark.parametrize("code", FOREIGN)
def test_another_library_that_does_not_do_what_the_recipe_says(
    code: str, net: nn.Module, labelled: tuple[torch.Tensor, torch.Tensor]
) -> None:
    pytest.importorskip("torchattacks")
    recipe = recipes.parse({"name": "theirs", **FOREIGN[code]}, "test")
    found = robustatt.sweep(net, labelled, attacks=["fgsm", recipe], eps="4,8,16").health
    assert {warning.code for warning in found if warning.attack == "theirs"} - {code} <= ({"iterative-weaker"} if code else set())
    assert not code or code in {warning.code for warning in found}


def test_the_remedy_that_restores_more_is_named_alone() -> None:
    """Renamed classes are not called a normalisation, nor the other way round."""
    images, labels = nets.held_out(64)
    pixels = images.float() / 255
    for network, code in ((layers.Renamed([*range(1, 10), 0]), "label-order"), (layers.undone(), "input-range")):
        parts = (
            (nets.trained(nets.convolutional), network) if code == "label-order" else (network, nets.trained(nets.convolutional))
        )
        found = check_model(nn.Sequential(*parts).eval(), "model", pixels, labels)
        assert {warning.code for warning in found} & {"label-order", "input-range"} == {code}


def test_a_network_that_has_learnt_little_is_not_surely_called_unnormalised() -> None:
    """After few steps the statistics of BatchNorm lag behind, and brighter images do gain: both readings are said."""
    for steps in (5, 10, 15, 20, 30):
        network = nets.trained(nets.convolutional, steps)
        images, labels = nets.held_out(64)
        found = check_model(network, "model", images.float() / 255, labels)
        said = [warning.message for warning in found if warning.code == "input-range"]
        assert all("or the network has learnt too little" in message for message in said), steps


def test_a_draw_without_some_classes_is_not_called_sorted() -> None:
    labels = np.random.default_rng(0).integers(0, 100, 5000)
    for n in (1, 10, 100, 1000, 5000):
        assert first_classes(labels, n) == []
    assert [warning.evidence["classes"] for warning in first_classes(np.sort(labels), 200)] == [4]
    assert first_classes(np.zeros(50, dtype=np.int64), 10) == []


@pytest.mark.parametrize(
    ("alone", "lost", "codes"), [(11, 0, []), (12, 0, ["transfer-stronger"]), (40, 0, ["transfer-stronger"]), (40, 30, [])]
)
def test_transfer_stronger_at_its_threshold(alone: int, lost: int, codes: list[str]) -> None:
    """Of 100 images PGD on the model itself breaks the first 30; McNemar over two radii needs 12 more, without any lost."""
    own, rival = _first(30), _first(30 + alone) & ~_first(lost)
    records = broken_records({"pgd": np.stack([own, own], 1)}, ["4/255", "8/255"])
    crafted = broken_records({"pgd": np.stack([own, rival], 1)}, ["4/255", "8/255"])
    assert [entry.code for entry in check_records(records, (), crafted.assign(surrogate="other"))] == codes
    assert check_records(records, (), crafted.assign(surrogate="m")) == []  # crafted on the model itself


def test_transfer_beyond_a_single_step_is_no_mistake() -> None:
    records = broken_records({"fgsm": _first(30)[:, None]}, ["4/255"])
    crafted = broken_records({"fgsm": _first(90)[:, None]}, ["4/255"])
    assert check_records(records, (), crafted.assign(surrogate="other")) == []


def test_healthy_networks_do_not_accuse_each_other() -> None:
    pair = {"conv": nets.trained(nets.convolutional), "plain": nets.trained(nets.plain)}
    result = robustatt.sweep(pair, nets.held_out(48), ["fgsm", "pgd"], eps="16,64", surrogate="all", drift_n=0)
    assert result.transfer("pgd", "64/255").loc["plain", "conv"] < 0.5, "transfer must break something"
    assert "transfer-stronger" not in {entry.code for entry in result.health}


class Counted(nn.Module):
    """A network whose images are counted, also those of its copies; a gradient counts as two."""

    passes = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.passes += len(x) * (1 + (torch.is_grad_enabled() and x.requires_grad))
        logits: torch.Tensor = self.net(x)
        return logits


@pytest.mark.parametrize(("count", "most"), [(16, 130), (64, 130), (100, 200)])
def test_checks_and_freezing_cost_no_more_than_is_said(count: int, most: int) -> None:
    net, (image, _) = Counted(nets.trained(nets.convolutional)), nets.held_out(count)
    image = image.float() / 255
    with torch.no_grad():
        label = net(image).argmax(1)
    Counted.passes = 0
    origin = robustatt.sweep(net.eval(), (image, label), attacks=["fgsm"], eps="8").summary["provenance"]
    assert Counted.passes - origin["forwards"] - 2 * origin["gradients"] <= most


def test_no_range_is_tried_where_too_few_images_are_wrong_for_a_verdict() -> None:
    """Ten images that a remedy mends, and none that it spoils, are p = 0.002: the smallest number that convinces is eleven."""
    net, (image, _) = Counted(nets.trained(nets.convolutional)), nets.held_out(64)
    image = image.float() / 255
    with torch.no_grad():
        label = net(image).argmax(1)
    asked = {}
    for wrong in (0, 10, 11):
        truth = label.clone()
        truth[:wrong] = (truth[:wrong] + 1) % 10
        Counted.passes = 0
        check_model(net, "mine", image, truth)
        asked[wrong] = Counted.passes
    assert asked[0] == asked[10] < asked[11]
