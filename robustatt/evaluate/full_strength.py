"""Attacks that run to their last step at every radius: what a whole ball can do to an image and its maps.

The threshold search stops at the first success and attacks only near each example's threshold, which is all that accuracy
needs. Its images have only just been broken, so they say little about drift.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from robustatt.attack.base import Oracle, SteppedAttack
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable, leave_alone
from robustatt.evaluate.classifier import require_finite


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
            state = attack.start(batch, rng)
            for _ in range(attack.steps):
                loss = attack.objective(batch, state)
                output = oracle.query(attack.query(state), batch.label, loss, gradient=attack.needs_gradient, passes=attack.eot)
                require_finite(output.logits, batch.index, target.classifier.label)
                state = attack.step(batch, state, output)
                if attack.looks_after_step:
                    seen = oracle.query(attack.query(state), batch.label, loss, gradient=False, passes=attack.eot)
                    state = attack.looked(batch, state, seen.logits)
            zero_gradient = state.get("zero_gradient")
            found = target.evaluate(chunk, attack.candidate(state), limit)
            found |= {
                "attacked": np.ones(len(chunk), bool),
                "zero_grad": np.zeros(len(chunk), bool) if zero_gradient is None else zero_gradient.bool().cpu().numpy(),
            }
            ledger.write(chunk.cpu().numpy(), radius, found)
        done(len(chunk))
    return ledger
