"""Gradients at the border of the box [0, 1], where functions such as clamp hide them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robustatt.attack.losses import log_odds
from robustatt.attack.norms import inside_box

#: How far inside the box gradients are taken if the border hides them: 16 units in the last place of a float32 below 1.
MARGIN = 2.0**-20

#: For models that round their input before they clamp it: two units in the last place below 1 of float16, of bfloat16.
ROUNDED_MARGINS = (2.0**-10, 2.0**-7)

#: Share of black and white pixels without any gradient inside the box from which on the wider margins are tried.
MAX_ZERO_SHARE = 0.2

#: Relative change of the gradients at black and white pixels from which on the border is said to hide them. Where
#: max-pooling breaks the ties of an even background in another way, networks come to 0.08; a clamp that hides one side
#: of one channel comes to a sixth.
MIN_HIDDEN = 0.125

#: Of the images that are made black and white to ask the model at; their negatives come to it.
PROBE_IMAGES = 2


class InsideBox(nn.Module):
    """A model whose gradients are those just inside the box; without gradients it is the model itself."""

    def __init__(self, module: nn.Module, margin: float) -> None:
        super().__init__()
        self.module, self.margin = module, margin

    def forward(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        moved = self.margin > 0 and torch.is_grad_enabled() and image.requires_grad
        logits: Tensor = self.module(inside_box(image, self.margin) if moved else image)
        return logits


def border_margin(forward: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"]) -> float:
    """How far inside the box a model's gradients have to be taken: 0 where the border hides none of them.

    clamp, relu and hardtanh have no gradient at exactly 0 and 1, and minimum and maximum only half of one, although the
    function rises inside the box: a model that begins with one of them hides the gradient of every black and white
    pixel. So the gradients at black and white images are compared with those just inside.
    """
    black_and_white = images[:PROBE_IMAGES].round()
    probe = torch.cat([black_and_white, 1 - black_and_white])
    at_border, inside = loss_gradient(forward, probe), loss_gradient(forward, inside_box(probe, MARGIN))
    zero_share = _zero_share(inside)
    if zero_share > MAX_ZERO_SHARE:
        for margin in ROUNDED_MARGINS:
            if _zero_share(loss_gradient(forward, inside_box(probe, margin))) < zero_share / 2:
                return margin
    hidden = float((inside - at_border).abs().sum()) > MIN_HIDDEN * float(inside.abs().sum())
    return MARGIN if hidden and bool(inside.isfinite().all()) else 0.0


def _zero_share(gradient: Tensor) -> float:
    return float((gradient == 0).float().mean())


def loss_gradient(forward: Callable[[Tensor], Tensor], image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The gradient of the stable loss of the predicted classes; 0 everywhere for a model without gradients."""
    try:
        with torch.enable_grad():
            query = image.detach().clone().requires_grad_()
            logits = forward(query)
            loss = log_odds(logits, logits.detach().argmax(1)).sum()
            gradient = torch.autograd.grad(loss, query, allow_unused=True)[0] if loss.requires_grad else None
    except RuntimeError:  # the model's own code may not allow gradients
        gradient = None
    return torch.zeros_like(image) if gradient is None else gradient
