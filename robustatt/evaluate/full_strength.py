"""Attacks that run to their last step at every radius: what a whole ball can do to an image and its maps.

The threshold search stops at the first success and attacks only near each example's threshold, which is all that accuracy
needs. Its images have only just been broken, so they say little about drift, and they rarely fool another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustatt.attack.base import ExternalAttack, MinimumNormAttack, Oracle, SingleDirectionAttack, SteppedAttack
from robustatt.attack.norms import per_row
from robustatt.attack.rng import ExampleRng
from robustatt.errors import InputError
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable, leave_alone
from robustatt.evaluate.classifier import require_finite
from robustatt.evaluate.runners import perturbed_by_library
from robustatt.evaluate.step_runner import last_state

Craft = SingleDirectionAttack | SteppedAttack | ExternalAttack


@dataclass(frozen=True)
class Crafted:
    """What an attack hands in for some examples at one radius, not yet judged."""

    positions: Tensor
    radius: int
    eps: Tensor
    image: Tensor
    zero_gradient: NDArray[np.bool_]
    """Whether every gradient on the way was zero."""

    def judge(self, target: AttackedBatch, ledger: OutcomeTable) -> None:
        """Write down what a model says of the images."""
        found = target.evaluate(self.positions, self.image, self.eps)
        found |= {"attacked": np.ones(len(self.positions), bool), "zero_grad": self.zero_gradient}
        ledger.write(self.positions.cpu().numpy(), self.radius, found)


def evaluate_at_full_strength(
    target: AttackedBatch, attack: SteppedAttack, oracle: Oracle, rng: ExampleRng, done: Callable[[int], None]
) -> OutcomeTable:
    """The first restart of an attack at each radius, all its steps, whether or not an earlier one succeeded.

    Examples that are wrong when clean are left alone, as everywhere.
    """
    ledger = OutcomeTable(target)
    correct = target.correct.cpu().numpy()
    leave_alone(target, ledger, np.flatnonzero(~correct))
    done(int((~correct).sum()))
    positions = torch.from_numpy(np.flatnonzero(correct)).to(target.label.device)
    for chunk in torch.split(positions, target.batch_size):
        for crafted in craft(target, attack, oracle, rng, chunk):
            crafted.judge(target, ledger)
        done(len(chunk))
    return ledger


def evaluate_along_direction(
    target: AttackedBatch, attack: SingleDirectionAttack, oracle: Oracle, rng: ExampleRng, done: Callable[[int], None]
) -> OutcomeTable:
    """One direction an example serves the whole grid: one gradient, and a forward pass for each radius."""
    ledger = OutcomeTable(target)
    for positions in target.batches():
        for crafted in craft(target, attack, oracle, rng, positions):
            crafted.judge(target, ledger)
        done(len(positions))
    return ledger


def require_craft(attack: object) -> Craft:
    """The attack, if it has an image for every radius; InputError if it looks for the nearest mistake instead."""
    nearest = isinstance(attack, MinimumNormAttack) or (isinstance(attack, ExternalAttack) and attack.minimum_norm)
    if nearest or not isinstance(attack, Craft):
        name = getattr(attack, "name", attack)
        raise InputError(f"attack {name!r} takes no radius, so it cannot be crafted on a surrogate: leave it out, or --surrogate")
    return attack


def craft(target: AttackedBatch, attack: Craft, oracle: Oracle, rng: ExampleRng, positions: Tensor) -> Iterator[Crafted]:
    """The images of one batch of examples at every radius, in turn: one restart, all its steps, successful or not.

    Examples that the model classifies wrong without an attack are attacked like the others.
    """
    if not len(positions):
        return
    untouched = np.zeros(len(positions), bool)
    if isinstance(attack, SingleDirectionAttack):
        rows = target.batch(positions, torch.ones(len(positions), device=positions.device))
        direction, stuck = attack.direction(rows, oracle, rng)
        for radius, eps in enumerate(target.radii):
            limit = torch.full_like(stuck, float(eps))
            image = (rows.image + per_row(limit, direction) * direction).clamp(0.0, 1.0)
            yield Crafted(positions, radius, limit, image, stuck.bool().cpu().numpy())
        return
    for radius, eps in enumerate(target.radii):
        limit = eps.expand(len(positions))
        if isinstance(attack, ExternalAttack):
            yield Crafted(positions, radius, limit, perturbed_by_library(target, attack, rng, positions, radius), untouched)
            continue
        batch = target.batch(positions, limit)
        finite = partial(_require_finite, target, batch.index)
        state = last_state(attack, batch, oracle, attack.start(batch, rng), finite)
        zero_gradient = state.get("zero_gradient")
        zero = untouched if zero_gradient is None else zero_gradient.bool().cpu().numpy()
        yield Crafted(positions, radius, limit, attack.candidate(state), zero)


def _require_finite(target: AttackedBatch, index: Tensor, query: Tensor, logits: Tensor) -> None:  # noqa: ARG001
    require_finite(logits, index, target.classifier.label)
