"""The costly checks: attack a model in several ways and see whether the answers fit together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustatt.attack.border import InsideBox
from robustatt.attack.losses import log_odds, logit_margin
from robustatt.eps import parse_radius
from robustatt.errors import InputError, RunInterrupted
from robustatt.evaluate.classifier import frozen
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
            right = classifier.original(image).argmax(1) == truth
        case = Case(InsideBox(classifier.original, classifier.box_margin), label, image[right], truth[right], seed)
        found += _climbed(case, eps)
    return distinct(found)


def _sweep(
    module: nn.Module, label: str, images: Tensor, labels: Tensor, seed: int
) -> tuple[list[HealthWarning], float | None]:
    """A sweep of different kinds of attack and its health; the radius at which pgd breaks about half, if
    it breaks any."""
    from robustatt.api import sweep
    from robustatt.attack.recipe import Recipe
    from robustatt.attack.recipe_files import parse

    square = parse({"name": "square", "algorithm": "square", "queries": QUERIES}, "doctor")
    attacks: list[str | Recipe] = ["fgsm", "pgd", square, "sign-noise"]
    try:
        result = sweep({label: module}, (images, labels), attacks=attacks, eps=RADII, seed=seed)
    except InputError:
        raise
    except RunInterrupted as problem:
        if "NaN or infinite" not in str(problem):
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
        "Look for a division by zero, a logarithm "
        "of zero or an overflow in half precision.",
        label,
        evidence={"of": images},
    )


@dataclass(frozen=True)
class Case:
    """A model and the images it classifies right."""

    module: nn.Module
    label: str
    image: Tensor
    truth: Tensor
    seed: int

    def wrong(self, image: Tensor) -> Tensor:
        """Which images are misclassified."""
        with torch.no_grad():
            return logit_margin(self.module(image).float(), self.truth) > 0


@dataclass(frozen=True)
class Climb:
    """The image of the path that is nearest to (or furthest past) a mistake, whether the last image is a mistake,
    and whether any was."""

    best: Tensor
    final: Tensor
    ever: Tensor


def climb(case: Case, eps: float, steps: int, stride: float, restart: int) -> Climb:
    """PGD that never stops early: `steps` sign steps of `stride` from a uniform random point of the
    L-infinity ball."""
    generator = torch.Generator().manual_seed(case.seed + restart)
    noise = (2 * torch.rand(case.image.shape, generator=generator) - 1).to(case.image.device)
    image = (case.image + eps * noise).clamp(0, 1)
    best, most = image, torch.full((len(image),), -torch.inf, device=image.device)
    for _ in range(steps):
        with torch.enable_grad():
            query = image.detach().requires_grad_()
            logits = case.module(query).float()
            loss = log_odds(logits, case.truth).sum()
            grad = torch.autograd.grad(loss, query, allow_unused=True)[0] if loss.requires_grad else None
        best, most = _better(case, image, logits.detach(), best, most)
        grad = torch.zeros_like(image) if grad is None else grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        image = torch.clamp(image + stride * grad.sign(), case.image - eps, case.image + eps).clamp(0, 1)
    with torch.no_grad():
        logits = case.module(image).float()
    best, most = _better(case, image, logits, best, most)
    return Climb(best, logit_margin(logits, case.truth) > 0, most > 0)


def _better(case: Case, image: Tensor, logits: Tensor, best: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    margin = logit_margin(logits, case.truth)
    better = margin > most
    return torch.where(better.view(-1, 1, 1, 1), image, best), torch.where(better, margin, most)


def _climbed(case: Case, eps: float) -> list[HealthWarning]:
    """What standard runs of 40 steps of eps/10 give away; rounding is judged at two 8-bit steps or more."""
    first = climb(case, eps, STEPS, eps / 10, 0)
    wide = max(eps, 2 / 255)
    run = first if wide == eps else climb(case, wide, STEPS, wide / 10, 0)
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
            case.label,
            "pgd",
            {"passed": passed, "of": len(case.truth)},
        )
    ever = first.ever
    for restart in (1, 2):
        ever = ever | climb(case, eps, 2 * STEPS, eps / 20, restart).ever
    more = int((ever & ~first.ever).sum())
    if more < max(5, MORE * len(case.truth)):
        return None
    return HealthWarning(
        "not-converged",
        f"at {eps * 255:.3g}/255 two more runs of pgd with twice the steps break {more} of {len(case.truth)} "
        "images more than one run of 40 steps: it has not converged.",
        "Use apgd-ce or autoattack, or raise "
        "steps and restarts until nothing changes.",
        case.label,
        "pgd",
        {"more": more, "of": len(case.truth)},
    )


def _rounding(case: Case, eps: float, run: Climb) -> HealthWarning | None:
    count = int(run.ever.sum())
    gone = count - int((case.wrong((run.best * 255).round() / 255) & run.ever).sum())
    if gone < max(5, VANISH * count):
        return None
    return HealthWarning(
        "vanishes-after-rounding",
        f"at {eps * 255:.3g}/255 {gone} of {count} successes are gone when the image is rounded to 8 bits: "
        "they would not survive being saved as a PNG.",
        "Judge the rounded images, or look for a layer that "
        "reacts to less than one 8-bit step.",
        case.label,
        "pgd",
        {"vanished": gone, "of": count},
    )
