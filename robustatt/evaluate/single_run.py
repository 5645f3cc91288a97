"""What is run once for all columns of the table: attacks to the nearest mistake, and corruptions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import Attack, ExternalAttack, MinimumNormAttack, Oracle
from robustatt.attack.corrupting import Corruption
from robustatt.attack.norms import NORMS, TOLERANCE, Norm, per_row
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable, leave_alone
from robustatt.evaluate.runners import MAX_EXCESS, run_external
from robustatt.evaluate.step_runner import Job, RunResult, StepRunner


def evaluate_minimum_norm(
    target: AttackedBatch, attack: Attack, oracle: Oracle, rng: ExampleRng, done: Callable[[int], None]
) -> OutcomeTable:
    """A minimum-norm attack gives every radius at once: its image where it fits the ball, else that scaled into it.

    So does any attack of another library that takes no radius. If it does not look for the nearest mistake in the norm
    of the ball, an image outside says nothing of what is inside: that row is not attacked, and `raw_distance` says how
    far the library's own image is.
    """
    ledger = OutcomeTable(target, **dict.fromkeys(_distances(attack), np.nan))
    correct = target.correct.cpu().numpy()
    leave_alone(target, ledger, np.flatnonzero(~correct))
    done(int((~correct).sum()))
    positions = torch.from_numpy(np.flatnonzero(correct)).to(target.label.device)
    for chunk in torch.split(positions, target.batch_size):
        if isinstance(attack, ExternalAttack):
            image = run_external(target, attack, rng, chunk, len(target.radii) - 1)
            distance = target.norm.norm(image - target.image[chunk])
            zero_gradient = np.zeros(len(chunk), bool)
            nearest = attack.minimised_norm == target.norm.name
        else:
            assert isinstance(attack, MinimumNormAttack)
            image, distance, zero_gradient = _nearest(target, attack, oracle, rng, chunk)
            nearest = True
        for radius, eps in enumerate(target.radii):
            limit = torch.full_like(distance, float(eps))
            clean = target.image[chunk]
            share = per_row((limit / distance.clamp_min(1e-30)).clamp(max=1.0), clean)
            scaled = (clean + target.norm.project(share * (image - clean), limit)).clamp(0.0, 1.0)
            handed_in = torch.where(per_row(distance <= limit, clean), image, scaled)
            found = target.evaluate(chunk, handed_in, limit)
            attacked = (distance <= limit * (1 + MAX_EXCESS) + TOLERANCE).cpu().numpy() | nearest
            found |= {"attacked": attacked, "zero_grad": zero_gradient}
            found |= {
                name: norm.norm(image - clean).cpu().numpy() for name, norm in _distances(attack).items()
            }  # fmt: skip
            ledger.write(chunk.cpu().numpy(), radius, found)
        done(len(chunk))
    return ledger


def evaluate_corruption(target: AttackedBatch, attack: Corruption, seed: int, done: Callable[[int], None]) -> OutcomeTable:
    """Each severity is drawn and judged by itself, of every image: one that is wrong when clean may be right corrupted."""
    ledger = OutcomeTable(target, distance_l2=0.0, distance_l1=0.0, severity=0.0)
    for positions in target.batches():
        rows = target.batch(positions, torch.ones(len(positions), device=positions.device))
        for column, severity in enumerate(target.radii.round().int().tolist()):
            image = attack.images(rows, severity, seed)
            found = target.evaluate(positions, image, rows.eps)
            for name in ("l2", "l1"):
                found[f"distance_{name}"] = NORMS[name].norm(image - rows.image).cpu().numpy()
            found |= {"attacked": np.ones(len(positions), bool), "severity": np.full(len(positions), severity)}
            ledger.write(positions.cpu().numpy(), column, found)
        done(len(positions))
    return ledger


def _distances(attack: Attack) -> dict[str, Norm]:
    """The columns for the distances of another library's own image, each with its norm; none for a native attack.

    An attack without a norm has its L-infinity distance in `distance`, and L2 and L1 here.
    """
    if not isinstance(attack, ExternalAttack):
        return {}
    return {"distance_l2": NORMS["l2"], "distance_l1": NORMS["l1"]} if attack.unbounded else {"raw_distance": attack.norm}


def _nearest(
    target: AttackedBatch, attack: MinimumNormAttack, oracle: Oracle, rng: ExampleRng, positions: Tensor
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Each example's nearest mistake of all restarts, its distance, and whether every gradient was zero."""
    attack.tolerance = target.classifier.tolerance
    pool = StepRunner(target, attack, oracle, rng)
    last = len(target.radii) - 1
    examples, restarts = positions.tolist(), range(attack.restarts)
    pool.waiting.extend(Job(example, last, restart=restart) for example in examples for restart in restarts)
    best: dict[int, RunResult] = {}
    zero_gradient: dict[int, bool] = {}
    pool.refill()
    while len(pool):
        for item in pool.advance():
            example = item.job.example
            zero_gradient[example] = zero_gradient.get(example, True) and item.zero_gradient
            if example not in best or item.distance < best[example].distance:
                best[example] = item
        pool.refill()
    items = [best[example] for example in examples]
    distance = torch.tensor([item.distance for item in items], device=positions.device)
    return (
        torch.stack([item.image for item in items]),
        distance,
        np.array([zero_gradient[example] for example in examples]),
    )
