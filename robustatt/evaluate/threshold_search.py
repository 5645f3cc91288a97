"""How a grid of radii is attacked without paying for every radius.

Balls are nested: an image that breaks an example at eps breaks it at every larger radius, and what holds at eps
under an attack is not expected to fall to it at a smaller one. So for each example only the radii around the one
where it breaks are attacked, at full strength where it holds. Every row is still backed by a real image inside its
radius, judged in a forward pass of its own: above the threshold the image that broke it, below it the failed
perturbation scaled into the ball. A failed perturbation is also scaled out to the next radius: if that breaks the
example, no run is needed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustatt.attack.base import Attack, ExternalAttack, MinimumNormAttack, Oracle, SteppedAttack
from robustatt.attack.norms import per_row, project
from robustatt.attack.rng import ExampleRng
from robustatt.evaluate.batch import AttackedBatch, OutcomeTable, leave_alone
from robustatt.evaluate.bracket import Bracket, estimate_threshold
from robustatt.evaluate.runners import ExternalRunner, MinimumNormRunner
from robustatt.evaluate.step_runner import Job, RunResult, StepRunner

# How far beyond what its last gradient says a broken example's threshold is looked for: the gradient turns on the way.
TURNING = 1.15


class GridSearch:
    """Runs a chain of attacks over a grid; each part sees only the survivors of the one before.

    The first part looks for each example's threshold alone; the others are then run where it held, just below, and
    whatever they break is searched again further down. With `independent` every radius is attacked afresh by the
    whole chain, as other libraries do.
    """

    def __init__(
        self, target: AttackedBatch, parts: Sequence[Attack], oracle: Oracle, rng: Callable[[str], ExampleRng],
        done: Callable[[int], None], independent: bool,
    ) -> None:  # fmt: skip
        self.target, self.oracle, self.done, self.independent = target, oracle, done, independent
        self.part_names = [part.name.rpartition("/")[2] for part in parts]
        self.chain = len(parts) > 1
        self.ledger = OutcomeTable(target, **({"broken_by": ""} if self.chain else {}))
        self.pools = [self._pool(part, rng(part.name)) for part in parts]
        self.images: dict[tuple[int, int], Tensor] = {}
        self.makers: dict[tuple[int, int], int] = {}  # which part made the image, itself or scaled from another radius
        self.brackets: dict[int, Bracket] = {}
        self.handed_in: list[RunResult] = []  # not yet judged
        self.proved: set[tuple[int, int]] = set()  # (example, radius) that held under the whole chain
        self.counted: set[int] = set()  # examples that were reported as done

    def _pool(self, part: Attack, rng: ExampleRng) -> StepRunner:
        if isinstance(part, MinimumNormAttack):
            return MinimumNormRunner(self.target, part, self.oracle, rng, self.independent)
        if isinstance(part, ExternalAttack):
            return ExternalRunner(self.target, part, rng)
        assert isinstance(part, SteppedAttack)
        return StepRunner(self.target, part, self.oracle, rng)

    def run(self) -> OutcomeTable:
        """Attack until every example's threshold is known, then fill in the other radii."""
        correct = np.flatnonzero(self.target.correct.cpu().numpy())
        alone = np.flatnonzero(~self.target.correct.cpu().numpy())
        leave_alone(self.target, self.ledger, alone)
        self.done(len(alone))
        count = len(self.target.radii)
        if self.independent:
            self.pools[0].waiting.extend(Job(int(e), radius) for e in correct for radius in range(count))
            self._work()
            self.done(len(correct))
            return self.ledger
        for example, guess in zip(correct.tolist(), self._guesses(correct), strict=True):
            self.brackets[example] = Bracket(count, guess)
            self._continue(example)
        self._work()
        unfilled = set(self.brackets)
        while unfilled:
            unfilled = self._fill_below(sorted(unfilled))
            self._work()
        for example in self.brackets:
            self._fill_above(example)
        return self.ledger

    def _guesses(self, examples: np.ndarray) -> list[int]:
        """For each example the first radius at or above the estimate of its threshold."""
        guesses: list[int] = []
        for chunk in torch.split(self.target.label.new_tensor(examples), self.target.batch_size):
            radius = estimate_threshold(
                self.target.batch(chunk, self.target.radii[-1:].expand(len(chunk))), self.target.norm, self.oracle
            )
            guesses += (self.target.radii[None, :] < radius[:, None]).sum(1).tolist()
        return guesses

    def _continue(self, example: int) -> None:
        radius = self.brackets[example].next()
        held = self.brackets[example].held
        if radius is not None:
            self.pools[0].waiting.append(Job(example, radius))
        elif len(self.pools) > 1 and held >= 0 and (example, held) not in self.proved:
            self.pools[1].waiting.append(Job(example, held, part=1))
        elif example not in self.counted:
            self.counted.add(example)
            self.done(1)

    def _work(self) -> None:
        """Advance a full pool, or else the earliest that has rows, and judge what was handed in, until nothing is left.

        Later parts wait until what the earlier ones leave over fills their batch.
        """
        while True:
            for pool in self.pools:
                pool.refill()
            busy = [pool for pool in self.pools if len(pool)]
            chosen = next((pool for pool in busy if len(pool) >= self.target.batch_size), busy[0] if busy else None)
            pending = self.handed_in
            if pending and (chosen is None or len(pending) >= len(chosen) // 4):
                self.handed_in = pending[self.target.batch_size :]
                self._judge(pending[: self.target.batch_size])
            elif chosen is None:
                return
            else:
                pending += chosen.advance()

    def _judge(self, batch: list[RunResult]) -> None:
        positions = self.target.label.new_tensor([item.job.example for item in batch])
        radii = self.target.label.new_tensor([item.job.radius for item in batch])
        found = self.target.evaluate(positions, torch.stack([item.image for item in batch]), self.target.radii[radii])
        wrong = self.target.succeeded(positions, found["adv_pred"])
        for row, item in enumerate(batch):
            values = {name: column[row] for name, column in found.items()}
            if item.scaled and not wrong[row]:
                self._held_scaled(item.job, float(values["adv_margin"]))
            else:
                self._learn(item, values, bool(wrong[row]))

    def _learn(self, item: RunResult, values: dict[str, np.ndarray], broken: bool) -> None:
        job, columns = item.job, self.ledger.columns
        before = columns["adv_margin"][job.example, job.radius]
        first = not columns["attacked"][job.example, job.radius]
        if first or broken or values["adv_margin"] < before:
            zero_gradient = item.zero_gradient and (first or columns["zero_grad"][job.example, job.radius])
            values |= {"attacked": np.asarray(True), "zero_grad": np.asarray(zero_gradient)} | self._credit(job.part, broken)
            self.ledger.write(np.array(job.example), job.radius, values)
            self.images[job.example, job.radius] = item.image
            self.makers[job.example, job.radius] = job.part
        following = None if broken else self._survived(job)
        if following is not None:
            self.pools[following.part].waiting.append(following)
        elif self.independent:
            del self.images[job.example, job.radius], self.makers[job.example, job.radius]
        else:
            self._narrow(job, broken)
            if broken and np.isfinite(item.needed):
                self._expect(job.example, TURNING * item.needed)
            if not broken and job.part == 0 and job.radius + 1 < self.brackets[job.example].broken:
                self.handed_in.append(self._scaled_up(job))
            else:
                self._continue(job.example)

    def _credit(self, part: int, broken: bool) -> dict[str, Any]:
        """The part of a chain that broke an example, for its row; nothing for a single attack."""
        return {"broken_by": self.part_names[part] if broken else ""} if self.chain else {}

    def _scaled_up(self, job: Job) -> RunResult:
        """The image that the first part failed with moved out to the next radius, which often makes a run there needless."""
        (here, wider), clean = self.target.radii[job.radius : job.radius + 2], self.target.image[job.example]
        image = clean + (self.images[job.example, job.radius] - clean) * (wider / here)
        inside = project(self.target.norm, clean[None], image[None], wider[None])[0]
        zero_gradient = bool(self.ledger.columns["zero_grad"][job.example, job.radius])
        return RunResult(Job(job.example, job.radius + 1), inside, zero_gradient, scaled=True)

    def _held_scaled(self, job: Job, margin: float) -> None:
        """A scaled image still holds: guess where its example breaks by the margin's secant through the last two radii."""
        held = float(self.ledger.columns["adv_margin"][job.example, job.radius - 1])
        before, here = self.target.radii[job.radius - 1 : job.radius + 1].tolist()
        if margin < held and self.target.target_class[job.example] < 0:
            self._expect(job.example, here + margin * (here - before) / (held - margin))
        self._continue(job.example)

    def _expect(self, example: int, edge: float) -> None:
        self.brackets[example].expect(int((self.target.radii < edge).sum()))

    def _narrow(self, job: Job, broken: bool) -> None:
        """Move the example's bracket by the outcome of one part at one radius."""
        bracket = self.brackets[job.example]
        if not broken and job.part == len(self.pools) - 1:
            self.proved.add((job.example, job.radius))
        if broken and job.radius <= bracket.held:
            bracket.fell_at(job.radius, self._held(job.example))
        else:
            bracket.learn(job.radius, broken)

    def _survived(self, job: Job) -> Job | None:
        """What follows a failed run: the next restart, then the next part; the first part bisects on its own."""
        if job.restart + 1 < self.pools[job.part].restarts:
            return Job(job.example, job.radius, job.part, job.restart + 1)
        if job.part + 1 < len(self.pools) and (self.independent or job.part > 0):
            return Job(job.example, job.radius, job.part + 1)
        return None

    def _fill_below(self, examples: list[int]) -> set[int]:
        """Rows below each threshold that were not attacked: the failed perturbation scaled into the smaller ball.

        Returns the examples for which such an image is a mistake, which moves their threshold down.
        """
        fallen: set[int] = set()
        pairs = [
            (example, radius) for example in examples for radius in range(self.brackets[example].held)
            if not self.ledger.columns["attacked"][example, radius]
        ]  # fmt: skip
        for start in range(0, len(pairs), self.target.batch_size):
            chunk = pairs[start : start + self.target.batch_size]
            fallen |= self._judge_scaled(chunk)
        for example in sorted(fallen):
            self._continue(example)
        return fallen

    def _judge_scaled(self, pairs: list[tuple[int, int]]) -> set[int]:
        positions = self.target.label.new_tensor([example for example, _ in pairs])
        eps = self.target.radii[self.target.label.new_tensor([radius for _, radius in pairs])]
        sources = [min(r for e, r in self._tested(example) if r > radius) for example, radius in pairs]
        failed = torch.stack([self.images[example, r] for (example, _), r in zip(pairs, sources, strict=True)])
        share = eps / self.target.radii[self.target.label.new_tensor(sources)]
        clean = self.target.image[positions]
        image = clean + self.target.norm.project((failed - clean) * per_row(share, clean), eps)
        found = self.target.evaluate(positions, image, eps)
        reached = self.target.succeeded(positions, found["adv_pred"])
        fallen: set[int] = set()
        for row, (example, radius) in enumerate(pairs):
            zero_gradient = self.ledger.columns["zero_grad"][example, sources[row]]
            maker = self.makers[example, sources[row]]
            values = {name: column[row] for name, column in found.items()} | {"zero_grad": zero_gradient}
            values |= self._credit(maker, bool(reached[row]))
            self.ledger.write(np.array(example), radius, values)
            bracket = self.brackets[example]
            if reached[row] and radius < bracket.broken:
                self.images[example, radius], self.makers[example, radius] = image[row].clone(), maker
                bracket.fell_at(radius, self._held(example))
                fallen.add(example)
        return fallen

    def _tested(self, example: int) -> list[tuple[int, int]]:
        return [(example, r) for r in np.flatnonzero(self.ledger.columns["attacked"][example]).tolist()]

    def _holds(self, example: int, radius: int) -> bool:
        prediction = self.ledger.columns["adv_pred"][example, radius]
        return not self.target.succeeded(self.target.label.new_tensor([example]), prediction)[0]

    def _held(self, example: int) -> list[int]:
        return [radius for _, radius in self._tested(example) if self._holds(example, radius)]

    def _fill_above(self, example: int) -> None:
        """Rows above the threshold that were not attacked: the image that broke the nearest smaller radius."""
        source = self.brackets[example].broken
        for radius in range(source, len(self.target.radii)):
            if self.ledger.columns["attacked"][example, radius] and not self._holds(example, radius):
                source = radius
            elif radius != source:
                self.ledger.copy(example, source, radius)
