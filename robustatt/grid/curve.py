"""Attacks of which one run serves every radius: along a ray, and to the nearest mistake."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import (
    Attack,
    ExternalAttack,
    MinimumNormAttack,
    Noise,
    Oracle,
    RayAttack,
)
from robustatt.attack.loss import misclassification
from robustatt.grid.pool import Finished, Job, Pool
from robustatt.grid.pools import run_external
from robustatt.grid.target import Ledger, Target, leave_alone
from robustatt.threat import per_row


def along_rays(target: Target, attack: RayAttack, oracle: Oracle, noise: Noise, done: Callable[[int], None]) -> Ledger:
    """One direction an example serves the whole grid: one gradient, and a forward pass for each radius."""
    ledger = Ledger(target)
    for positions in target.batches():
        rows = target.rows(positions, torch.ones(len(positions), device=positions.device))
        direction, flat = attack.direction(rows, oracle, noise)
        for radius, eps in enumerate(target.radii):
            limit = torch.full_like(flat, float(eps))
            image = (rows.image + per_row(limit, direction) * direction).clamp(0.0, 1.0)
            found = target.evaluate(positions, image, limit)
            found |= {"attacked": np.ones(len(positions), bool), "zero_grad": flat.bool().cpu().numpy()}
            ledger.write(positions.cpu().numpy(), radius, found)
        done(len(positions))
    return ledger


def whole_curve(target: Target, attack: Attack, oracle: Oracle, noise: Noise, done: Callable[[int], None]) -> Ledger:
    """A minimum-norm attack gives every radius at once: its image where it fits the ball, else that scaled
    into it."""
    ledger = Ledger(target)
    correct = target.correct.cpu().numpy()
    leave_alone(target, ledger, np.flatnonzero(~correct))
    done(int((~correct).sum()))
    positions = torch.from_numpy(np.flatnonzero(correct)).to(target.label.device)
    for chunk in torch.split(positions, target.batch_size):
        if isinstance(attack, ExternalAttack):
            image, distance = _external_nearest(target, attack, noise, chunk)
            flat = np.zeros(len(chunk), bool)
        else:
            assert isinstance(attack, MinimumNormAttack)
            image, distance, flat = _nearest(target, attack, oracle, noise, chunk)
        for radius, eps in enumerate(target.radii):
            limit = torch.full_like(distance, float(eps))
            clean = target.image[chunk]
            share = per_row((limit / distance).clamp(max=1.0), clean)
            scaled = (clean + target.norm.clip(share * (image - clean), limit)).clamp(0.0, 1.0)
            handed_in = torch.where(per_row(distance <= limit, clean), image, scaled)
            found = target.evaluate(chunk, handed_in, limit)
            found |= {"attacked": np.ones(len(chunk), bool), "zero_grad": flat}
            ledger.write(chunk.cpu().numpy(), radius, found)
        done(len(chunk))
    return ledger


def _nearest(
    target: Target, attack: MinimumNormAttack, oracle: Oracle, noise: Noise, positions: Tensor
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Each example's nearest mistake of all restarts, its distance, and whether every gradient was zero."""
    attack.tolerance = target.classifier.tolerance
    pool = Pool(target, attack, oracle, noise)
    last = len(target.radii) - 1
    examples, restarts = positions.tolist(), range(attack.restarts)
    pool.waiting.extend(Job(example, last, restart=restart) for example in examples for restart in restarts)
    best: dict[int, Finished] = {}
    flat: dict[int, bool] = {}
    pool.refill()
    while len(pool):
        for item in pool.advance():
            example = item.job.example
            flat[example] = flat.get(example, True) and item.flat
            if example not in best or item.distance < best[example].distance:
                best[example] = item
        pool.refill()
    items = [best[example] for example in examples]
    distance = torch.tensor([item.distance for item in items], device=positions.device)
    return (
        torch.stack([item.image for item in items]),
        distance,
        np.array([flat[example] for example in examples]),
    )


def _external_nearest(target: Target, attack: ExternalAttack, noise: Noise, positions: Tensor) -> tuple[Tensor, Tensor]:
    image = run_external(target, attack, noise, positions, len(target.radii) - 1)
    with torch.no_grad():
        margin = misclassification(target.classifier.logits(image), target.label[positions])
    target.forwards += len(positions)
    distance = target.norm.length(image - target.image[positions])
    return image, torch.where(margin > 0, distance, torch.inf)
