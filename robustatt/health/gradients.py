"""Does a model have a gradient, and does it tell the truth?"""

from __future__ import annotations

import torch
from torch import Tensor

from robustatt.attack.border import InsideBox, loss_gradient
from robustatt.attack.losses import log_odds
from robustatt.attack.norms import inside_box
from robustatt.health.look import ModelProbe
from robustatt.health.warning import ZERO_GRADIENT_SHARE, HealthWarning

AGREES = (0.5, 2.0)
"""Loss change along the gradient over its prediction, for a step of at most 0.001 (a quarter of an 8-bit
step). The same network to second order gives 1 within some per cent; the bounds allow for kinks of ReLU
and max-pooling."""

MIN_BORDER_SHARE = 0.01
"""Share of the pixels that must be black or white for a judgement about them."""

MIN_DEAD_SHARE = 0.5
"""Share of the black and white pixels without a gradient from which on the model is called flat there. Networks whose
ReLUs are dead in a black corner come near it, but are as dead when the corner is grey."""

GREY = 0.125
"""How far black and white pixels are moved inside to see whether they have a gradient there."""


def gradient(look: ModelProbe, comparable: bool) -> HealthWarning | None:
    """Zero, non-finite or misleading gradients of the stable loss, at the predicted class.

    `comparable` says that passes over the same image give the same logits; else no step can be judged.
    """
    image, label = look.few, look.few_logits.argmax(1)
    try:
        with torch.enable_grad():
            query = image.detach().clone().requires_grad_()
            loss = log_odds(InsideBox(look.module, look.border)(query).float(), label)
            grad = torch.autograd.grad(loss.sum(), query, allow_unused=True)[0] if loss.requires_grad else None
    except RuntimeError:
        grad = None
    grad = torch.zeros_like(image) if grad is None else grad.detach()
    if not bool(grad.isfinite().all()):
        wrong = int((~grad.flatten(1).isfinite().all(1)).sum())
        return HealthWarning(
            "nan-gradient",
            f"for {wrong} of {len(image)} clean images the gradient is NaN or infinite although the logits "
            "are not: attacks take such entries as zero and have nothing to follow there, so robustness is "
            "overstated.",
            "Look for a square root, a logarithm, a power below 1 or a norm at zero.",
            look.label,
            evidence={"images": wrong, "of": len(image)},
        )
    share = float((grad.flatten(1).abs().amax(1) == 0).float().mean())
    if share > ZERO_GRADIENT_SHARE:
        return HealthWarning(
            "zero-gradient",
            f"for {share:.0%} of the clean images the gradient of the loss is exactly zero, so an attack "
            "that follows it has nothing to follow and its failure says nothing.",
            "Look for rounding, detached tensors or no_grad in the model, and run a black-box attack (square).",
            look.label,
            evidence={"share": share},
        )
    return _flat_at_border(look, grad) or (_shattered(look, grad) if comparable else None)


def _flat_at_border(look: ModelProbe, grad: Tensor) -> HealthWarning | None:
    """Black and white pixels without a gradient, although they have one when they are made a little grey.

    A function that is flat at exactly 0 and 1 only does not get here: the gradient is taken just inside the box.
    """
    image = look.few
    border = (image == 0) | (image == 1)
    if float(border.float().mean()) < MIN_BORDER_SHARE:
        return None
    dead = float((grad == 0)[border].float().mean())
    if dead < MIN_DEAD_SHARE:
        return None
    grey = loss_gradient(look.module, inside_box(image, GREY))
    if float((grey == 0)[border].float().mean()) > dead / 2:
        return None
    return HealthWarning(
        "flat-at-border",
        f"at {dead:.0%} of the black and white pixels of {len(image)} clean images the gradient is exactly zero, but not "
        f"when these pixels are made grey by {GREY:g}: the model is flat near 0 and 1, and an attack that starts at the "
        "image itself leaves these pixels alone.",
        "Look for a clamp, threshold or ReLU on the input, and trust attacks "
        "with a random start (pgd, autoattack) rather than fgsm.",
        look.label,
        evidence={"share": dead},
    )


def _shattered(look: ModelProbe, grad: Tensor) -> HealthWarning | None:
    """Small steps along the gradient's sign, where the box leaves room, against the first-order
    prediction."""
    image, label = look.few, look.few_logits.argmax(1)
    start = log_odds(look.few_logits, label)
    agrees = torch.zeros(len(image), dtype=torch.bool, device=image.device)
    judged = agrees.clone()
    ratios = torch.full_like(start, float("nan"))
    for size in (1e-3, 2e-4):
        step = size * grad.sign()
        step = torch.where((image + step < 0) | (image + step > 1), torch.zeros_like(step), step)
        predicted = (grad * step).flatten(1).sum(1)
        change = log_odds(look.query(image + step), label) - start
        certain = predicted > 100 * 1.2e-7 * look.scale  # a hundred roundings: else the change is not measurable
        ratio = change / predicted.clamp_min(1e-30)
        ratios = torch.where(certain & ~judged, ratio, ratios)
        judged |= certain
        agrees |= certain & (ratio > AGREES[0]) & (ratio < AGREES[1])
        if 2 * int(agrees.sum()) >= len(image):  # whatever the smaller step says
            return None
    count, good = int(judged.sum()), int(agrees.sum())
    if count < 8 or good >= count / 2:
        return None
    median = float(ratios[judged].median())
    return HealthWarning(
        "shattered-gradient",
        f"a small step along the gradient should raise the loss; on {count - good} of {count} images it "
        f"changes by less than half or more than twice of what the gradient says (median {median:.2g} "
        "times). The gradient does not describe the model, so attacks that follow it fail for no good "
        "reason.",
        "Look for rounding, a hand-written backward pass or a very rough layer, and run a black-box attack (square).",
        look.label,
        evidence={"disagree": (count - good) / count, "median_ratio": median},
    )
