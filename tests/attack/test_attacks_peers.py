"""Against torchattacks and foolbox on the same model and images: per example where the rule is the same, by
count else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from test_attacks import short
from tiny_models import digits_data, trained_digits
from torch import Tensor, nn

import robustatt
from robustatt.results.statistics import mcnemar_exact

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other libraries
torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")

EPS = (8, 24, 40)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained_digits()


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    image, label = digits_data()
    return image[-200:], label[-200:]


def ours(net: nn.Module, data: tuple[Tensor, Tensor], recipe: Any, **options: Any) -> dict[int, np.ndarray]:
    """The predictions under attack at each radius, every radius attacked afresh."""
    eps = ",".join(map(str, EPS))
    records = robustatt.sweep(net, data, attacks=[recipe], eps=eps, independent=True, **options).records
    return {e: records[records.eps == f"{e}/255"].sort_values("index").adv_pred.to_numpy() for e in EPS}


def predicted(net: nn.Module, image: Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(net(image).argmax(1))


SAME: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "fgsm": (
        {},
        lambda net, eps: torchattacks.FGSM(net, eps=eps),
        lambda: foolbox.attacks.LinfFastGradientAttack(random_start=False),
    ),
    "pgd": (
        {"random_start": False, "steps": 10, "step_size": 0.25},
        lambda net, eps: torchattacks.PGD(net, eps=eps, alpha=eps / 4, steps=10, random_start=False),
        lambda: foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=10, random_start=False),
    ),
    "mi-fgsm": (
        {"steps": 5, "step_size": 0.2},
        lambda net, eps: torchattacks.MIFGSM(net, eps=eps, alpha=eps / 5, steps=5, decay=1.0),
        None,
    ),
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_every_example_as_in_the_other_libraries(name: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """Success or failure agrees for each example; a stray pixel whose gradient is zero to rounding excuses
    two in 600.

    Ours stops at the first success, so where both succeed the classes may differ.
    """
    changes, with_torchattacks, with_foolbox = SAME[name]
    image, label = data
    mine = ours(net, data, short(name, loss="ce", **changes))
    right = predicted(net, image) == label.numpy()
    strays = 0
    for eps in EPS:
        rivals = [predicted(net, with_torchattacks(net, eps / 255)(image, label))]
        if with_foolbox is not None:
            model = foolbox.PyTorchModel(net, bounds=(0, 1))
            rivals.append(predicted(net, with_foolbox()(model, image, label, epsilons=eps / 255)[1]))
        for rival in rivals:
            failed_mine, failed_theirs = mine[eps] == label.numpy(), rival == label.numpy()
            better = failed_theirs & ~failed_mine if name != "fgsm" else np.zeros(len(label), bool)
            # an iterate on the way may succeed where the last one, the only one they look at, does not
            strays += int(((failed_mine != failed_theirs) & ~better & right).sum())
    assert strays <= 2


def test_fgsm_predicts_the_same_class(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data
    mine = ours(net, data, short("fgsm", loss="ce"))
    for eps in EPS:
        rival = predicted(net, torchattacks.FGSM(net, eps=eps / 255)(image, label))
        assert (mine[eps] != rival).sum() <= 1


def no_weaker(mine: np.ndarray, theirs: np.ndarray) -> bool:
    """Robust accuracy at most the peer's, up to what an exact McNemar test calls noise."""
    return bool(mine.sum() <= theirs.sum() or mcnemar_exact((mine & ~theirs).sum(), (theirs & ~mine).sum()) > 0.05)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("apgd-ce", lambda net, eps: torchattacks.APGD(net, eps=eps, steps=20, seed=0)),
        ("apgd-dlr", lambda net, eps: torchattacks.APGD(net, eps=eps, steps=20, seed=0, loss="dlr")),
    ],
)
def test_auto_pgd_is_no_weaker_than_torchattacks(name: str, peer: Any, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:100], data[1][:100]
    mine = ours(net, (image, label), short(name, steps=20))
    for eps in EPS:
        rival = predicted(net, peer(net, eps / 255)(image, label))
        assert no_weaker(mine[eps] == label.numpy(), rival == label.numpy()), eps


@pytest.mark.slow
def test_autoattack_is_no_weaker_than_torchattacks(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    image, label = data[0][:100], data[1][:100]
    result = robustatt.sweep(net, (image, label), attacks=["autoattack"], eps=",".join(map(str, EPS))).records
    for eps in EPS:
        mine = result[result.eps == f"{eps}/255"].sort_values("index").adv_pred.to_numpy()
        rival = predicted(net, torchattacks.AutoAttack(net, eps=eps / 255, seed=0)(image, label))
        assert no_weaker(mine == label.numpy(), rival == label.numpy()), eps


@pytest.mark.slow
@pytest.mark.parametrize("hardened", [False, True])
def test_autoattack_in_l1_is_no_weaker_than_the_authors(hardened: bool, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    """At each radius no more images hold than under the authors' own code, of a plain model and of one trained on images
    under attack."""
    theirs = pytest.importorskip("pyautoattack", reason="pip install pyautoattack")
    image, label = data[0][:32], data[1][:32]
    model = trained_digits(adversarial=16 / 255) if hardened else net
    radii = (3.0, 6.0) if hardened else (1.5, 3.0)
    records = robustatt.sweep(model, (image, label), attacks=["autoattack-l1"], eps=list(radii)).records
    held = []
    for eps, (_, rows) in zip(radii, records[records.eps != "0/255"].groupby("eps", sort=False), strict=True):
        rival = theirs.AutoAttack(model, norm="L1", eps=eps, version="standard", seed=0)
        found, _ = rival.run_standard_evaluation(image, label)
        assert float((found - image).abs().flatten(1).sum(1).max()) <= eps * 1.001
        held.append((int((rows.adv_pred == rows.label).sum()), int((predicted(model, found) == label.numpy()).sum())))
    assert all(mine <= others for mine, others in held), held
    assert any(5 <= others <= 27 for _, others in held), held


CLASSIC: dict[str, tuple[dict[str, Any], Any]] = {
    "deepfool": ({}, lambda: foolbox.attacks.L2DeepFoolAttack()),
    "cw-l2": ({}, lambda: foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=100)),
    "ead-l1": ({}, lambda: foolbox.attacks.EADAttack(binary_search_steps=9, steps=100, regularization=1e-3, decision_rule="L1")),
    "boundary": ({"queries": 2000}, lambda: foolbox.attacks.BoundaryAttack(steps=2000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CLASSIC))
def test_classic_attacks_find_no_larger_distances_than_foolbox(name: str, net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    changes, peer = CLASSIC[name]
    with torch.no_grad():
        right = (net(data[0]).argmax(1) == data[1]).nonzero()[:20, 0]
    image, label = data[0][right], data[1][right]
    recipe = short(name, **changes)
    records = robustatt.sweep(net, (image, label), attacks=[recipe], eps=[100.0]).records
    mine = records[records.eps != "0/255"].set_index("index").distance.to_numpy()
    _, found, success = peer()(foolbox.PyTorchModel(net, bounds=(0, 1)), image, label, epsilons=None)
    theirs = torch.linalg.vector_norm((found - image).flatten(1), ord=1 if recipe.norm == "l1" else 2, dim=1).numpy()
    assert bool(success.all())
    assert np.median(mine) <= 1.02 * np.median(theirs)
