"""An attack at one radius that is run to its last step, on a model whose worst image is known."""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.base import Batch, Oracle, State
from robustatt.attack.gradient import Pgd
from robustatt.attack.gradient_recipes import PgdRecipe
from robustatt.attack.norms import NORMS
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.step_runner import run_to_end

EPS, STEPS = 0.1, 25
IMAGES = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(16, generator=torch.Generator().manual_seed(1))
PGD = Pgd(PgdRecipe(name="pgd", algorithm="pgd", steps=STEPS, step_size=0.1))


def forward(image: Tensor) -> Tensor:
    """Two logits that are linear in the image; every image is of class 0 by far."""
    score = (image.flatten(1) @ WEIGHTS)[:, None]
    return torch.cat([torch.full_like(score, 100.0), score], dim=1)


def batch(label: int) -> Batch:
    return Batch.at(EPS, IMAGES, torch.full((3,), label), forward(IMAGES))


def test_a_linear_model_is_taken_to_the_corner_of_the_ball() -> None:
    problems = batch(0)
    found = run_to_end(PGD, problems, Oracle(forward), PGD.start(problems, ExampleRng(0, "pgd")))
    corner = (IMAGES + EPS * WEIGHTS.sign().view(1, 1, 4, 4)).clamp(0, 1)
    assert torch.allclose(found, corner, atol=1e-6)


def test_a_success_does_not_end_it_and_every_query_is_seen() -> None:
    problems, queries = batch(1), list[Tensor]()  # misclassified from the first query on
    start = State(image=IMAGES, zero_gradient=torch.ones(3))
    found = run_to_end(PGD, problems, Oracle(forward), start, lambda image, _: queries.append(image))
    assert len(queries) == STEPS
    assert torch.equal(queries[0], IMAGES)
    corner = (IMAGES - EPS * WEIGHTS.sign().view(1, 1, 4, 4)).clamp(0, 1)
    assert torch.allclose(found, corner, atol=1e-6)
    assert bool((NORMS["linf"].norm(found - IMAGES) <= EPS + 1e-6).all())
