"""Attacks of other libraries through recipes: same oracle, same checks, nothing of the caller's is
changed."""

from __future__ import annotations

import importlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Linear, exact_distance, linear_data, trained_digits
from torch import nn

import robustatt
from robustatt.attack import recipe_files as recipes
from robustatt.attack.base import Batch
from robustatt.attack.builder import build
from robustatt.attack.external import Torchattacks
from robustatt.errors import InputError, RobustattError

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
RADII = np.arange(1, 13) / 255


def external(algorithm: str, norm: str = "linf", **rest: Any) -> recipes.Recipe:
    return recipes.parse({"name": "theirs", "algorithm": algorithm, "norm": norm, **rest}, where="test")


EXACT = [
    external("torchattacks:FGSM"),
    external("torchattacks:PGD", shares={"alpha": 0.3}, arguments={"steps": 8}),
    external("torchattacks:MIFGSM", shares={"alpha": 0.25}, arguments={"steps": 5}),
    external("foolbox:LinfFastGradientAttack"),
    external("foolbox:LinfDeepFoolAttack"),
    external("foolbox:LinfBasicIterativeAttack", arguments={"rel_stepsize": 0.25}),
]


@pytest.mark.parametrize("recipe", EXACT, ids=lambda recipe: recipe.algorithm)
def test_linear_oracle(recipe: recipes.Recipe) -> None:
    model = Linear(2)
    image, label = linear_data(model, 30)
    exact = exact_distance(model, image, label, "linf").numpy()
    records = robustatt.sweep(model, (image, label), attacks=[recipe], eps="1..12").records
    records["wrong"] = records.adv_pred != records.label
    wrong = records.pivot_table(index="index", columns="eps", values="wrong", sort=False).to_numpy()[:, 1:].astype(bool)
    assert not wrong[exact[:, None] > RADII + 1e-5].any()
    assert wrong[exact[:, None] * 1.03 < RADII].all()


def test_the_norm_of_the_recipe_is_handed_on_and_randomness_is_seeded() -> None:
    model = Linear(4)
    image, label = linear_data(model, 20)
    recipe = external("torchattacks:Square", "l2", arguments={"n_queries": 30})
    runs = [robustatt.sweep(model, (image, label), attacks=[recipe], eps="60,90", seed=s).records for s in (0, 0, 1)]
    assert runs[0].adv_margin.equals(runs[1].adv_margin)
    assert not runs[0].adv_margin.equals(runs[2].adv_margin)


def rows(n: int = 4, eps: float = 0.03, size: int = 8) -> Batch:
    zero = torch.zeros(n, dtype=torch.int64)
    image = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(image, zero, torch.full((n,), eps), torch.arange(n), zero, torch.zeros(n, 10), zero - 1)


@pytest.mark.parametrize("algorithm", ["torchattacks:PGD", "foolbox:LinfPGD"])
def test_nothing_of_the_callers_is_changed(algorithm: str) -> None:
    """Also BatchNorm: torchattacks would leave frozen layers of a model in training in train mode."""
    net = trained_digits(steps=1).train()
    net[1].eval()
    flags = [part.training for part in net.modules()]
    statistics = net[1].running_mean.clone()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    attack: Any = build(external(algorithm), 10)
    problem = rows()
    kept = problem.image.clone()
    attack.perturb(net, problem, 0)
    assert [part.training for part in net.modules()] == flags
    assert torch.equal(net[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    assert torch.equal(problem.image, kept)


@pytest.mark.parametrize("algorithm", ["torchattacks:PGD", "foolbox:LinfPGD"])
def test_eps_zero_gives_the_clean_image_even_where_the_model_normalises(algorithm: str) -> None:
    class RobModel(nn.Module):
        """torchattacks reads mean and std off any class of this name, and then moves pixels by rounding."""

        def __init__(self) -> None:
            super().__init__()
            self.net = trained_digits(steps=1)
            self.mean, self.std = torch.tensor([0.49, 0.48, 0.44]), torch.tensor([0.2, 0.2, 0.26])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net((image - self.mean[:, None, None]) / self.std[:, None, None])
            return logits

    attack: Any = build(external(algorithm), 10)
    assert torch.equal(attack.perturb(RobModel(), rows(eps=0.0), 0), rows().image)
    tiny = attack.perturb(RobModel(), rows(eps=1 / 255), 0)
    assert float((tiny - rows().image).abs().max()) <= 1 / 255 + 1e-6


def test_their_output_is_checked_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchattacks' GN adds noise without a radius: run once and scaled, it is inside. Who lies is caught."""
    model = Linear(2)
    image, label = linear_data(model, 8)
    records = robustatt.sweep(
        model, (image, label), attacks=[external("torchattacks:GN", "l2")], eps=[10 / 255, 20 / 255]
    ).records
    assert (records.distance <= 20 / 255 + 1e-6).all()
    monkeypatch.setattr(Torchattacks, "run", lambda self, module, rows, eps, seed: rows.image + 2 * eps)  # noqa: ARG005
    with pytest.raises(RobustattError, match=r"'theirs'.*linf distance"):
        robustatt.sweep(model, (image, label), attacks=[external("torchattacks:PGD")], eps="4")


MISTAKES = {
    "torchattacks:DIFGSN": ({}, "no attack 'torchattacks:DIFGSN': did you mean 'DIFGSM'"),
    "foolbox:LinfDeepFool": ({}, "did you mean 'LinfDeepFoolAttack'"),
    "torchattacks:PGD": ({"arguments": {"step": 3}}, "takes no argument 'step': did you mean 'steps'"),
    "torchattacks:BIM": ({"arguments": {"eps": 0.1}}, "the radius comes from the plan; leave 'eps' out"),
    "foolbox:LinfPGD": ({"arguments": {"steps": "x"}}, "refused these arguments or this model"),
}


@pytest.mark.parametrize("algorithm", sorted(MISTAKES))
def test_a_mistake_is_one_helpful_line(algorithm: str) -> None:
    rest, said = MISTAKES[algorithm]
    model = Linear(2)
    with pytest.raises(InputError, match=said) as caught:
        robustatt.sweep(model, linear_data(model, 4), attacks=[external(algorithm, **rest)], eps="4")
    assert "\n" not in str(caught.value)


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith(("torchattacks", "foolbox")):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return genuine(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    for algorithm in ("torchattacks:PGD", "foolbox:LinfPGD"):
        with pytest.raises(InputError, match=r'needs .*: pip install "robustatt\[peers\]"'):
            build(external(algorithm), 10)


def test_a_recipe_file_of_a_user(tmp_path: Path) -> None:
    path = tmp_path / "diverse.toml"
    path.write_text('algorithm = "torchattacks:DIFGSM"\n[arguments]\nsteps = 3\n[shares]\nalpha = 0.4\n')
    model = Linear(2)
    image, label = linear_data(model, 10)
    result = robustatt.sweep(model, (image, label), attacks=[str(path)], eps="4,40")
    assert result.curve("diverse").accuracy.iloc[-1] < result.curve("diverse").accuracy.iloc[0]
