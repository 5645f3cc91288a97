"""What an attack climbs. Each loss is per example, larger meaning closer to (or further past) a mistake."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Loss = Callable[[Float[Tensor, "n classes"], Int[Tensor, " n"]], Float[Tensor, " n"]]


def _others(logits: Tensor, label: Tensor) -> Tensor:
    return logits.scatter(1, label[:, None], -torch.inf)


def log_odds(logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """logsumexp of the other logits minus the true one.

    Cross-entropy is softplus of this, a monotone function, so the sign of the gradient is the same in exact
    arithmetic; unlike cross-entropy's it never underflows when the model is sure of itself.
    """
    return _others(logits, label).logsumexp(1) - logits.gather(1, label[:, None])[:, 0]


def cross_entropy(logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Plain cross-entropy, for comparison with other libraries; its gradient saturates in float32."""
    return F.cross_entropy(logits, label, reduction="none")


def logit_margin(logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The best other logit minus the true one: positive exactly when the prediction is wrong."""
    return _others(logits, label).amax(1) - logits.gather(1, label[:, None])[:, 0]


def difference_of_logits_ratio(logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """DLR (Croce & Hein 2020, section 4.2): the misclassification margin over the first-to-third gap.

    Defined for three classes and more.
    """
    top = logits.topk(3, dim=1).values
    return logit_margin(logits, label) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_logits_ratio(
    logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"], target_class: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Targeted DLR (Croce & Hein 2020, section 5.1, equation 7). Defined for four classes and more."""
    top = logits.topk(4, dim=1).values
    return target_margin(logits, label, target_class) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def target_margin(
    logits: Float[Tensor, "n classes"], label: Int[Tensor, " n"], target_class: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The target class's logit minus the true one."""
    return (logits.gather(1, target_class[:, None]) - logits.gather(1, label[:, None]))[:, 0]


def towards(loss: Loss, target_class: Int[Tensor, " n"]) -> Loss:
    """The targeted form of a loss: it grows as the target class wins."""
    if loss is difference_of_logits_ratio:
        return lambda logits, label: targeted_logits_ratio(logits, label, target_class)
    return lambda logits, _: -loss(logits, target_class)


LOSSES: dict[str, Loss] = {
    "stable": log_odds,
    "ce": cross_entropy,
    "margin": logit_margin,
    "dlr": difference_of_logits_ratio,
}
#: the fewest classes for which (the untargeted, the targeted) form of a loss is defined
MIN_CLASSES: dict[str, tuple[int, int]] = {"dlr": (3, 4)}
