"""Which class a targeted attack aims at, for each example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.attack.recipe import Targets
from robustatt.errors import InputError

if TYPE_CHECKING:
    from robustatt.attack.rng import ExampleRng

__all__ = ["Targets", "choose", "kth_class"]


def choose(
    targets: Targets,
    clean: Float[Tensor, "n classes"],
    label: Int[Tensor, " n"],
    index: Int[Tensor, " n"],
    rng: ExampleRng,
) -> Int[Tensor, " n"]:
    """The class each example is to be pushed to, from the recipe's `targeted` key.

    "least-likely" is the smallest logit of the clean image (Kurakin et al. 2017, section 2.3), "random" any
    class but the label, "next" the label plus one; a number is one class for all, a list has a class for each
    example of the data set. Raises InputError for classes the model does not have and for a list that is too
    short.
    """
    classes = clean.shape[1]
    if targets == "least-likely":
        return clean.argmin(1)
    if targets == "next":
        return (label + 1) % classes
    if targets == "random":
        shift = [1 + int(rng.generator(int(i), 0, draw=7).integers(classes - 1)) for i in index]
        return (label + torch.tensor(shift, device=label.device)) % classes
    if isinstance(targets, str):
        raise InputError(f"unknown targets {targets!r}")
    if isinstance(targets, tuple) and len(targets) <= int(index.max()):
        raise InputError(
            f"targeted lists {len(targets)} classes, but example {int(index.max())} is attacked: give one for each example"
        )
    listed = torch.tensor(targets, device=label.device)
    target_class = listed[index] if isinstance(targets, tuple) else listed.expand_as(label)
    if int(target_class.max()) >= classes:
        raise InputError(f"targeted asks for class {int(target_class.max())}, but the model has the classes 0 to {classes - 1}")
    return target_class


def kth_class(clean: Float[Tensor, "n classes"], label: Int[Tensor, " n"], k: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The k-th most likely wrong class of the clean image, k from 0."""
    order = clean.scatter(1, label[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.gather(1, k[:, None])[:, 0]
