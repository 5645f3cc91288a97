"""Which radius of an example to attack next."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from robustatt.attack.base import (
    Batch,
    Oracle,
)
from robustatt.attack.losses import log_odds, towards
from robustatt.attack.norms import Norm, per_row


class Bracket:
    """What is known of one example: it holds at radius `held` (an index, -1 for clean) and breaks at `broken`.

    `guess` is the smallest radius at which it is expected to break.
    """

    def __init__(self, radii: int, guess: int) -> None:
        self.held, self.broken = -1, radii
        self._guess = guess
        self._stride = max(1, radii // 16)
        self._climbs, self._descended = 0, False

    def next(self) -> int | None:
        """The radius to attack next, None once the two are neighbours: the one below the guess, if that is possible.

        Without a useful guess: a run that succeeds ends after a few steps, one that fails costs all of them, so come
        from above in short strides, climb in growing ones, and cut an interval in between nearer to its upper end.
        """
        if self.broken - self.held <= 1:
            return None
        following = max(self._guess - 1, 0)
        if not self.held < following < self.broken:
            if self._climbs == 0:
                following = self.broken - self._stride
            elif not self._descended:
                following = self.held + self._stride * 2 ** (self._climbs - 1)
            else:
                following = self.broken - 1 - (self.broken - self.held) // 4
        return min(max(following, self.held + 1), self.broken - 1)

    def learn(self, radius: int, broken: bool) -> None:
        """Take in the outcome of a full-strength run."""
        if broken:
            self.broken, self._descended = min(self.broken, radius), True
        else:
            self.held, self._climbs = max(self.held, radius), self._climbs + 1

    def expect(self, guess: int) -> None:
        """Take in a better guess."""
        self._guess = guess

    def fell_at(self, radius: int, held: Iterable[int]) -> None:
        """A smaller radius turned out to break: the bracket moves below it, to the largest radius that held."""
        self.broken, self._climbs, self._descended = radius, 0, False
        self.held = max((r for r in held if r < radius), default=-1)


ESTIMATE_STEPS = 3


def estimate_threshold(batch: Batch, norm: Norm, oracle: Oracle) -> Float[Tensor, " n"]:
    """Roughly the radius at which each row breaks, from four gradients; only ever used to choose where to search.

    First where a linear model with the clean gradient would break. Then, three times, one step of that size along the
    steepest direction and two readings there: the zero of the secant from the clean image (mostly too large) and the
    zero of the margin linearised at that point (mostly too small). The geometric mean of the smallest of the first
    and the largest of the second is the next estimate. What must become 0 is the margin, but the gradient is that of
    the stable loss, which weighs all the other classes and is what the attacks follow.
    """
    loss = log_odds if bool((batch.target_class < 0).all()) else towards(log_odds, batch.target_class)

    def margin_and_gradient(image: Tensor) -> tuple[Tensor, Tensor]:
        output = oracle.query(image, batch.label, loss, gradient=True)
        assert output.grad is not None
        return batch.success_margin(output.logits), output.grad

    start, grad = margin_and_gradient(batch.image)
    radius = (-start / norm.dual_norm(grad).clamp_min(1e-30)).clamp_min(0.0)
    above, below = torch.full_like(radius, 1e6), torch.full_like(radius, 1e-3)
    for _ in range(ESTIMATE_STEPS):
        direction = norm.steepest_direction(grad)
        image = (batch.image + per_row(torch.minimum(radius, 2 * batch.eps), direction) * direction).clamp(0.0, 1.0)
        change = image - batch.image
        margin, grad = margin_and_gradient(image)
        secant = -start * norm.norm(change) / (margin - start).clamp_min(1e-9)
        along = (grad * change).flatten(1).sum(1)
        linear = (along - margin) / norm.dual_norm(grad).clamp_min(1e-30)
        above, below = torch.minimum(above, secant), torch.maximum(below, linear.clamp(max=1e6))
        radius = (above * below).sqrt()
    return radius
