"""The costly checks: attack a model in several ways and see whether the answers fit together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustatt.attack.base import Batch, Oracle, State
from robustatt.attack.gradient import Pgd
from robustatt.attack.gradient_recipes import PgdRecipe
from robustatt.attack.losses import logit_margin
from robustatt.attack.norms import per_row
from robustatt.eps import parse_radius
from robustatt.errors import NonFiniteLogits, RunInterrupted, innermost
from robustatt.evaluate.classifier import Classifier, frozen
from robustatt.evaluate.step_runner import run_to_end
from robustatt.health.data import seen_in_training
from robustatt.health.warning import HealthWarning, distinct

RADII = (*(steps / 255 for steps in (1, 2, 4, 8, 16, 32, 64)), 0.5)
STEPS = 40
QUERIES = 300
"""Of the black-box attack: enough to beat an attack that is blind, not to beat a good one."""

MORE = 0.10
"""Share of images (and at least five) that more steps and restarts, or the path, must break on top:
healthy networks give one or two in a hundred."""

VANISH = 0.25
"""Share of successes (and at least five) that 8-bit rounding must undo, at a radius of two 8-bit steps or
more: there a step to the border of the ball survives rounding, and only the odd success hangs on less than
half a step."""


def diagnose(
    module: nn.Module, label: str, images: Tensor, labels: Tensor, seed: int = 0, train: Tensor | None = None
) -> list[HealthWarning]:
    """The costly checks, by attacking the model: some thousand gradients and forward passes for 64 images.

    Args:
        module: from images in [0, 1] to logits; left as it was.
        label: what to call it.
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1]; 64 are enough.
        labels: their classes ``(n,)``.
        seed: of every random start.
        train: training images, to look for test images among them.
    """
    found, eps = _sweep(module, label, images, labels, seed)
    if train is not None:
        found += seen_in_training(label, images, train)
    if eps is None:
        return distinct(found)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    image = (images.float() / 255 if images.dtype == torch.uint8 else images.float()).to(device)
    truth = labels.to(device)
    with frozen(module, label, device, image[:8]) as classifier:
        with torch.no_grad():
            logits = classifier.original(image)
        right = logits.argmax(1) == truth
        case = Case(classifier, image[right], truth[right], logits[right], seed)
        found += _climbed(case, eps)
    return distinct(found)


def _sweep(module: nn.Module, label: str, images: Tensor, labels: Tensor, seed: int) -> tuple[list[HealthWarning], float | None]:
    """A sweep of different kinds of attack and its health; the radius at which pgd breaks about half, if
    it breaks any."""
    from robustatt.api import sweep
    from robustatt.attack.recipe import Recipe
    from robustatt.attack.recipe_files import parse

    square = parse({"name": "square", "algorithm": "square", "queries": QUERIES}, "doctor")
    attacks: list[str | Recipe] = ["fgsm", "pgd", square, "sign-noise"]
    try:
        result = sweep({label: module}, (images, labels), attacks=attacks, eps=RADII, seed=seed)
    except RunInterrupted as problem:
        if not isinstance(innermost(problem), NonFiniteLogits):
            raise
        return [_broken_off(label, problem.reason, len(images))], None
    curve = result.curve("pgd").iloc[1:]
    clean = float(result.curve("pgd")["accuracy"].iloc[0])
    if clean == 0:
        return result.health, None
    nearest = (curve["accuracy"] - clean / 2).abs().argmin()
    return result.health, float(parse_radius(str(curve["eps"].iloc[nearest])))


def _broken_off(label: str, reason: str, images: int) -> HealthWarning:
    return HealthWarning(
        "non-finite",
        f"an attack on {images} images could not be run to its end: {reason}.",
        "Look for a division by zero, a logarithm of zero or an overflow in half precision.",
        label,
        evidence={"of": images},
    )


@dataclass(frozen=True)
class Case:
    """A model and the images it classifies right, with its logits of them."""

    classifier: Classifier
    image: Tensor
    truth: Tensor
    clean: Tensor
    seed: int

    def forward(self, image: Tensor) -> Tensor:
        """The logits of the user's own model, in float32."""
        logits: Tensor = self.classifier.original(image)
        return logits.float()

    def margin(self, image: Tensor) -> Tensor:
        """How far each image is past a mistake, above 0 where it is misclassified."""
        with torch.no_grad():
            return logit_margin(self.forward(image), self.truth)


@dataclass(frozen=True)
class Climb:
    """The image of the path that is nearest to (or furthest past) a mistake, and whether the last one, or any, is one."""

    best: Tensor
    final: Tensor
    ever: Tensor


def climb(case: Case, eps: float, steps: int, step_size: float, restart: int) -> Climb:
    """PGD that never stops early: `steps` sign steps of `step_size` radii from a uniform random point of the ball."""
    attack = Pgd(PgdRecipe(name="pgd", algorithm="pgd", steps=steps, step_size=step_size))
    generator = torch.Generator().manual_seed(case.seed + restart)
    noise = (2 * torch.rand(case.image.shape, generator=generator) - 1).to(case.image.device)
    best = start = (case.image + eps * noise).clamp(0, 1)
    batch, most = Batch.at(eps, case.image, case.truth, case.clean), torch.full((len(start),), -torch.inf, device=start.device)

    def keep(image: Tensor, margin: Tensor) -> None:
        nonlocal best, most
        better = margin > most
        best, most = torch.where(per_row(better, image), image, best), torch.where(better, margin, most)

    last = run_to_end(
        attack, batch, Oracle(case.forward, case.classifier.box_margin), State(image=start, zero_gradient=torch.ones_like(most)),
        lambda image, logits: keep(image, logit_margin(logits, case.truth)),
    )  # fmt: skip
    final = case.margin(last)
    keep(last, final)
    return Climb(best, final > 0, most > 0)


def _climbed(case: Case, eps: float) -> list[HealthWarning]:
    """What standard runs of 40 steps of eps/10 give away; rounding is judged at two 8-bit steps or more."""
    first = climb(case, eps, STEPS, 0.1, 0)
    wide = max(eps, 2 / 255)
    run = first if wide == eps else climb(case, wide, STEPS, 0.1, 0)
    return [entry for entry in (_path(case, eps, first), _rounding(case, wide, run)) if entry]


def _path(case: Case, eps: float, first: Climb) -> HealthWarning | None:
    """Did the path of the run hold more than its end, and do more runs find more?"""
    passed = int((first.ever & ~first.final).sum())
    if passed >= max(5, MORE * len(case.truth)):
        return HealthWarning(
            "path-iterate",
            f"at {eps * 255:.3g}/255 the path of pgd passed through a mistake for {passed} of "
            f"{len(case.truth)} images whose last iterate is classified right: a library that looks only at "
            "the last one reports them as robust.",
            "Keep the best iterate, as the attacks here do.",
            case.classifier.label,
            "pgd",
            {"passed": passed, "of": len(case.truth)},
        )
    ever = first.ever
    for restart in (1, 2):
        ever = ever | climb(case, eps, 2 * STEPS, 0.05, restart).ever
    more = int((ever & ~first.ever).sum())
    if more < max(5, MORE * len(case.truth)):
        return None
    return HealthWarning(
        "not-converged",
        f"at {eps * 255:.3g}/255 two more runs of pgd with twice the steps break {more} of {len(case.truth)} "
        "images more than one run of 40 steps: it has not converged.",
        "Use apgd-ce or autoattack, or raise steps and restarts until nothing changes.",
        case.classifier.label,
        "pgd",
        {"more": more, "of": len(case.truth)},
    )


def _rounding(case: Case, eps: float, run: Climb) -> HealthWarning | None:
    count = int(run.ever.sum())
    gone = count - int(((case.margin((run.best * 255).round() / 255) > 0) & run.ever).sum())
    if gone < max(5, VANISH * count):
        return None
    return HealthWarning(
        "vanishes-after-rounding",
        f"at {eps * 255:.3g}/255 {gone} of {count} successes are gone when the image is rounded to 8 bits: "
        "they would not survive being saved as a PNG.",
        "Judge the rounded images, or look for a layer that reacts to less than one 8-bit step.",
        case.classifier.label,
        "pgd",
        {"vanished": gone, "of": count},
    )
