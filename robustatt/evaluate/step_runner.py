"""How stepped attacks run: a batch to its last step, or rows that are refilled as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import Batch, ModelOutput, Oracle, State, SteppedAttack
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.classifier import require_finite


def run_to_end(
    attack: SteppedAttack, batch: Batch, oracle: Oracle, state: State, seen: Callable[[Tensor, Tensor], None] = lambda *_: None
) -> Tensor:
    """The image of each row ``(n, c, h, w)`` after all steps of an attack at one radius, whether or not it succeeded before.

    See `last_state` for the arguments. The images are not judged: measure their distance (`robustatt.attack.norms.measure`).
    """
    return attack.candidate(last_state(attack, batch, oracle, state, seen))


def last_state(
    attack: SteppedAttack, batch: Batch, oracle: Oracle, state: State, seen: Callable[[Tensor, Tensor], None] = lambda *_: None
) -> State:
    """The state of an attack at one radius after all its steps.

    `state` is where the rows start: `attack.start(batch, rng)`, or one with other images. `seen` is called with each
    step's queries and their logits.
    """
    for _ in range(attack.steps):
        query, output = _ask(attack, batch, oracle, state)
        seen(query, output.logits)
        state = _follow(attack, batch, oracle, state, output)
    return state


def _ask(attack: SteppedAttack, batch: Batch, oracle: Oracle, state: State) -> tuple[Tensor, ModelOutput]:
    """What the attack asks next, and the model's answer."""
    query, loss = attack.query(state), attack.objective(batch, state)
    return query, oracle.query(query, batch.label, loss, gradient=attack.needs_gradient, passes=attack.eot)


def _follow(attack: SteppedAttack, batch: Batch, oracle: Oracle, state: State, output: ModelOutput) -> State:
    """The state after an answer, and after the look at the new query if the attack takes one."""
    following = attack.step(batch, state, output)
    if not attack.looks_after_step:
        return following
    loss = attack.objective(batch, state)
    look = oracle.query(attack.query(following), batch.label, loss, gradient=False, passes=attack.eot)
    return attack.looked(batch, following, look.logits)


@dataclass(frozen=True)
class Job:
    """One run of one part of an attack: which example, at which radius, which part, which restart."""

    example: int
    radius: int
    part: int = 0
    restart: int = 0


@dataclass
class RunResult:
    """What a run handed in, not yet judged: the image, and whether every gradient on the way was zero."""

    job: Job
    image: Tensor
    zero_gradient: bool
    distance: float = np.inf  # of the nearest mistake found, for minimum-norm attacks
    scaled: bool = False  # made from a smaller radius's image, not by a run of its own
    needed: float = np.inf  # for a success: the radius at which its last gradient alone would reach as much


class StepRunner:
    """The rows in which one stepped attack runs; a row whose run has ended makes room for the next job."""

    def __init__(self, target: AttackedBatch, attack: SteppedAttack, oracle: Oracle, rng: ExampleRng) -> None:
        self.target, self.attack, self.oracle, self.rng = target, attack, oracle, rng
        self.restarts = attack.restarts
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []
        self.batch: Batch | None = None
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
            torch.tensor([getattr(job, name) for job in fresh], device=device) for name in ("example", "radius", "restart")
        )
        batch = self.target.batch(positions, self.target.radii[radii], restarts)
        state = self.attack.start(batch, self.rng)
        self.batch = batch if self.batch is None or not self.jobs else self.batch.followed_by(batch)
        self.state = state if not self.jobs else self.state.followed_by(state)
        self.jobs += fresh
        self.steps = np.concatenate([self.steps, np.zeros(len(fresh), dtype=int)])

    def advance(self) -> list[RunResult]:
        """One step of every row; the runs that ended leave the batch and are returned."""
        assert self.batch is not None
        query, output = _ask(self.attack, self.batch, self.oracle, self.state)
        certain = self.batch.success_margin(output.logits) > self.target.classifier.tolerance + output.slack
        # both at once: a GPU is waited for once a step
        broken, finite = (
            torch.stack([certain & self.attack.inside(self.batch, self.state), output.logits.isfinite().all(1)]).cpu().numpy()
        )
        if not finite.all():
            require_finite(output.logits, self.batch.index, self.target.classifier.label)
        zero_gradient = self.state.get("zero_gradient")
        finished = self._take(broken, query, zero_gradient, self._needed(query, output) if broken.any() else None)
        self.state = _follow(self.attack, self.batch, self.oracle, self.state, output)
        self.steps += 1
        ended = ~broken & (self.steps >= self.attack.steps)
        if ended.any():
            finished += self._take(ended, self.attack.candidate(self.state), self.state.get("zero_gradient"))
        self._keep(~(broken | ended))
        return finished

    def _needed(self, query: Tensor, output: ModelOutput) -> np.ndarray | None:
        """The radius at which moving along these gradients alone reaches as much as the queries do."""
        if output.grad is None or self.batch is None:
            return None
        along = (output.grad * (query - self.batch.image)).flatten(1).sum(1)
        needed: np.ndarray = (along / self.attack.norm.dual_norm(output.grad).clamp_min(1e-30)).cpu().numpy()
        return needed

    def _take(
        self, chosen: np.ndarray, image: Tensor, zero_gradient: Tensor | None, needed: np.ndarray | None = None
    ) -> list[RunResult]:
        if not chosen.any():
            return []
        rows = np.flatnonzero(chosen)
        zero, distance = (None if values is None else values.cpu() for values in (zero_gradient, self.state.get("distance")))
        return [
            RunResult(
                self.jobs[i], image[i].clone(), zero is not None and bool(zero[i]), np.inf if distance is None else float(distance[i]),
                needed=np.inf if needed is None else float(needed[i]),
            )
            for i in rows
        ]  # fmt: skip

    def _keep(self, chosen: np.ndarray) -> None:
        if chosen.all():
            return
        assert self.batch is not None
        rows = torch.from_numpy(np.flatnonzero(chosen)).to(self.target.label.device)  # a mask would have to be waited for
        self.batch, self.state = self.batch.select(rows), self.state.select(rows)
        self.jobs = [job for job, kept in zip(self.jobs, chosen, strict=True) if kept]
        self.steps = self.steps[chosen]
