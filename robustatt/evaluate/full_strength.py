"""Attacks that run to their last step at every radius: what a whole ball can do to an image and its maps.

The threshold search stops at the first success and attacks only near each example's threshold, which is all that accuracy
needs. Its images have only just been broken, so they say little about drift.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import Oracle, SteppedAttack
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable, leave_alone
from robustatt.evaluate.classifier import require_finite
from robustatt.evaluate.step_runner import last_state


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
        if not len(chunk):
            continue
        for radius, eps in enumerate(target.radii):
            limit = eps.expand(len(chunk))
            batch = target.batch(chunk, limit)
            finite = partial(_require_finite, target, batch.index)
            state = last_state(attack, batch, oracle, attack.start(batch, rng), finite)
            zero_gradient = state.get("zero_gradient")
            found = target.evaluate(chunk, attack.candidate(state), limit)
            found |= {
                "attacked": np.ones(len(chunk), bool),
                "zero_grad": np.zeros(len(chunk), bool) if zero_gradient is None else zero_gradient.bool().cpu().numpy(),
            }
            ledger.write(chunk.cpu().numpy(), radius, found)
        done(len(chunk))
    return ledger


def _require_finite(target: AttackedBatch, index: Tensor, query: Tensor, logits: Tensor) -> None:  # noqa: ARG001
    require_finite(logits, index, target.classifier.label)
