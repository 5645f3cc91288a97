"""How attacks that are not stepped at one radius take part in the search: minimum-norm and external ones."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

import torch
from torch import Tensor

from robustatt.attack.base import ExternalAttack, MinimumNormAttack, Oracle
from robustatt.attack.border import InsideBox
from robustatt.attack.norms import TOLERANCE, per_row, project
from robustatt.attack.rng import ExampleRng
from robustatt.errors import InputError
from robustatt.evaluate.batch import AttackedBatch
from robustatt.evaluate.step_runner import Job, RunResult, StepRunner

MAX_EXCESS = 1e-3
"""By what share of the radius another library's image may lie outside the ball and still be a rounding error: it is
brought back without a message."""


class MinimumNormRunner(StepRunner):
    """Runs each restart of a minimum-norm attack once for an example and serves every radius from its result.

    A result whose distance is within the radius is handed in at the smallest radius it breaks (at its own one
    if every radius is `independent`); a farther one is cut to the ball, and counts for what the judge says.
    """

    def __init__(
        self, target: AttackedBatch, attack: MinimumNormAttack, oracle: Oracle, rng: ExampleRng, independent: bool
    ) -> None:
        super().__init__(target, attack, oracle, rng)
        attack.tolerance = target.classifier.tolerance
        self.independent = independent
        self.runs = StepRunner(target, attack, oracle, rng)
        self.found: dict[tuple[int, int], RunResult] = {}
        self._ready: list[Job] = []
        self._asked: dict[tuple[int, int], list[Job]] = {}

    def __len__(self) -> int:
        return len(self.runs) + len(self.runs.waiting) + len(self._ready)

    def refill(self) -> None:
        """Start the runs that are new; jobs whose run is known are ready."""
        last = len(self.target.radii) - 1
        for job in self.waiting:
            key = job.example, job.restart
            if key in self.found:
                self._ready.append(job)
                continue
            if key not in self._asked:
                self.runs.waiting.append(replace(job, radius=last))
            self._asked.setdefault(key, []).append(job)
        self.waiting.clear()
        self.runs.refill()

    def advance(self) -> list[RunResult]:
        """Hand in what is known, or else one step of every row and what that finished."""
        if not self._ready:
            for item in self.runs.advance():
                key = item.job.example, item.job.restart
                self.found[key] = item
                self._ready += self._asked.pop(key)
        ready, self._ready = self._ready, []
        return [self._hand_in(job) for job in ready]

    def _hand_in(self, job: Job) -> RunResult:
        item, radii = self.found[job.example, job.restart], self.target.radii
        if item.distance <= float(radii[job.radius]):
            radius = job.radius if self.independent else int((radii < item.distance).sum())
            return replace(item, job=replace(job, radius=radius))
        clean = self.target.image[job.example][None]
        cut = clean + self.target.norm.project(item.image[None] - clean, radii[job.radius][None])
        return replace(item, job=job, image=cut[0].clamp(0.0, 1.0))


class ExternalRunner(StepRunner):
    """Runs another library's attack on jobs of equal radius, a batch at a time."""

    def __init__(self, target: AttackedBatch, attack: ExternalAttack, rng: ExampleRng) -> None:
        self.target, self.external, self.rng = target, attack, rng
        self.restarts = 1
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []

    def refill(self) -> None:
        """Take the jobs of the radius most are waiting for."""
        if self.jobs or not self.waiting:
            return
        ((radius, _),) = Counter(job.radius for job in self.waiting).most_common(1)
        same = [job for job in self.waiting if job.radius == radius]
        self.jobs = sorted(same, key=lambda job: job.example)[: self.target.batch_size]
        taken = set(self.jobs)
        self.waiting = deque(job for job in self.waiting if job not in taken)

    def advance(self) -> list[RunResult]:
        """Run the batch to its end."""
        jobs, self.jobs = self.jobs, []
        positions = torch.tensor([job.example for job in jobs], device=self.target.label.device)
        image = perturbed_by_library(self.target, self.external, self.rng, positions, jobs[0].radius)
        return [RunResult(job, image[row], False) for row, job in enumerate(jobs)]


def run_external(target: AttackedBatch, attack: ExternalAttack, rng: ExampleRng, positions: Tensor, radius: int) -> Tensor:
    """One batch at one radius, seeded by (plan seed, attack, radius, first and last example)."""
    rows = target.batch(positions, target.radii[radius].expand(len(positions)))
    first, last = int(rows.index[0]), int(rows.index[-1])
    seed = int(rng.generator(first, last, draw=radius).integers(2**31))
    module = InsideBox(target.classifier.original, target.classifier.box_margin)
    return attack.perturb(module, rows, seed)


def perturbed_by_library(
    target: AttackedBatch, attack: ExternalAttack, rng: ExampleRng, positions: Tensor, radius: int
) -> Tensor:
    """The same of an attack that is told the radius, with rounding errors brought back into the ball; InputError for more."""
    return _inside(target, attack, positions, run_external(target, attack, rng, positions, radius), radius)


def _inside(target: AttackedBatch, attack: ExternalAttack, positions: Tensor, image: Tensor, radius: int) -> Tensor:
    """Images of an attack that was told the radius, rounding errors brought back into the ball; InputError for more."""
    clean, eps = target.image[positions], target.radii[radius].expand(len(positions))
    distance = target.norm.norm(image - clean)
    outside = distance > eps * (1 + MAX_EXCESS) + TOLERANCE
    if bool(outside.any()):
        raise InputError(
            f"attack {attack.name!r}: {int(outside.sum())} of {len(image)} images lie outside the ball of radius "
            f"{float(eps[0]):.4g} that it was given ({target.norm.name} distance up to {float(distance.max()):.4g}): it works "
            "with another norm or in another unit; set norm, or the class's own arguments, in its recipe"
        )
    return torch.where(per_row(distance > eps, image), project(target.norm, clean, image, eps), image)
