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
def test_auto_pgd_is_no_weaker_than_torchattacks(
    name: str, peer: Any, net: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
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
