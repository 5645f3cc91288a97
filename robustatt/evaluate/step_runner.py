"""The rows in which stepped attacks run, refilled as they end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import (
    ModelOutput,
    ExampleRng,
    Oracle,
    Batch,
    State,
    SteppedAttack,
)
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.classifier import require_finite


@dataclass(frozen=True)
class Job:
    """One run of one part of an attack: which example, at which radius, which part, which restart."""

    example: int
    radius: int
    part: int = 0
    restart: int = 0


@dataclass
class Finished:
    """What a run handed in, not yet judged: the image, and whether every gradient on the way was zero."""

    job: Job
    image: Tensor
    flat: bool
    distance: float = np.inf  # of the nearest mistake found, for minimum-norm attacks
    scaled: bool = False  # made from a smaller radius's image, not by a run of its own
    needed: float = np.inf  # for a success: the radius at which its last gradient alone would reach as much


class StepRunner:
    """The rows in which one stepped attack runs; a row whose run has ended makes room for the next job."""

    def __init__(self, target: AttackedBatch, attack: SteppedAttack, oracle: Oracle, noise: ExampleRng) -> None:
        self.target, self.attack, self.oracle, self.noise = target, attack, oracle, noise
        self.restarts = attack.restarts
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []
        self.rows: Batch | None = None
        self.state = State()
        self.steps = np.zeros(0, dtype=int)

    def __len__(self) -> int:
        return len(self.jobs)

    def refill(self) -> None:
        """Start waiting jobs until the batch is full."""
        fresh = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.target.batch_size - len(self)))]
        if not fresh:
            return
        device = self.target.label.device
        positions, radii, restarts = (
            torch.tensor([getattr(job, name) for job in fresh], device=device)
            for name in ("example", "radius", "restart")
        )
        rows = self.target.rows(positions, self.target.radii[radii], restarts)
        state = self.attack.start(rows, self.noise)
        self.rows = rows if self.rows is None or not self.jobs else self.rows.followed_by(rows)
        self.state = state if not self.jobs else self.state.followed_by(state)
        self.jobs += fresh
        self.steps = np.concatenate([self.steps, np.zeros(len(fresh), dtype=int)])

    def advance(self) -> list[Finished]:
        """One step of every row; the runs that ended leave the batch and are returned."""
        assert self.rows is not None
        query = self.attack.query(self.state)
        loss = self.attack.objective(self.rows, self.state)
        answer = self.oracle.query(
            query, self.rows.label, loss, gradient=self.attack.needs_gradient, passes=self.attack.eot
        )
        require_finite(answer.logits, self.rows.index, self.target.classifier.label)
        broken = np.zeros(len(self), dtype=bool)
        if self.attack.queries_are_candidates:
            certain = self.target.classifier.tolerance + answer.slack
            broken = (self.rows.success_margin(answer.logits) > certain).cpu().numpy()
        flat = self.state.get("flat")
        finished = self._take(broken, query, flat, self._needed(query, answer) if broken.any() else None)
        self.state = self.attack.step(self.rows, self.state, answer)
        if self.attack.looks_after_step:
            seen = self.oracle.query(
                self.attack.query(self.state), self.rows.label, loss, gradient=False, passes=self.attack.eot
            )
            self.state = self.attack.looked(self.rows, self.state, seen.logits)
        self.steps += 1
        ended = ~broken & (self.steps >= self.attack.steps)
        if "done" in self.state:
            ended |= ~broken & self.state["done"].cpu().numpy()
        if ended.any():
            finished += self._take(ended, self.attack.candidate(self.state), self.state.get("flat"))
        self._keep(~(broken | ended))
        return finished

    def _needed(self, query: Tensor, answer: ModelOutput) -> np.ndarray | None:
        """The radius at which moving along these gradients alone reaches as much as the queries do."""
        if answer.grad is None or self.rows is None:
            return None
        along = (answer.grad * (query - self.rows.image)).flatten(1).sum(1)
        needed: np.ndarray = (along / self.attack.norm.dual_norm(answer.grad).clamp_min(1e-30)).cpu().numpy()
        return needed

    def _take(
        self, chosen: np.ndarray, image: Tensor, flat: Tensor | None, needed: np.ndarray | None = None
    ) -> list[Finished]:
        distance = self.state.get("distance")
        return [
            Finished(
                self.jobs[i], image[i].clone(), flat is not None and bool(flat[i]),
                np.inf if distance is None else float(distance[i]),
                needed=np.inf if needed is None else float(needed[i]),
            )
            for i in np.flatnonzero(chosen)
        ]  # fmt: skip

    def _keep(self, chosen: np.ndarray) -> None:
        if chosen.all():
            return
        assert self.rows is not None
        mask = torch.from_numpy(chosen).to(self.target.label.device)
        self.rows, self.state = self.rows.select(mask), self.state.select(mask)
        self.jobs = [job for job, kept in zip(self.jobs, chosen, strict=True) if kept]
        self.steps = self.steps[chosen]
