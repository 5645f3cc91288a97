"""How a grid of radii is attacked without paying for every radius.

Balls are nested: an image that breaks an example at eps breaks it at every larger radius, and what holds at eps
under an attack is not expected to fall to it at a smaller one. So for each example only the radii around the one
where it breaks are attacked, at full strength on both sides. Every row is still backed by a real image inside its
radius, judged in a forward pass of its own: above the threshold the image that broke it, below it the failed
perturbation scaled into the ball.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.attack.base import (
    Attack,
    ExternalAttack,
    MinimumNormAttack,
    Noise,
    Oracle,
    RayAttack,
    Rows,
    State,
    SteppedAttack,
)
from robustatt.attack.goal import choose
from robustatt.attack.loss import stable
from robustatt.classifier import Classifier, Verdict, require_finite
from robustatt.drift import Attention, drift
from robustatt.threat import Norm, measure, per_row


@dataclass
class Target:
    """The examples of a Cell on the device, what the model says of them unattacked, and the radii to evaluate."""

    classifier: Classifier
    norm: Norm
    attack: str
    image: Float[Tensor, "n c h w"]
    label: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    radii: Float[Tensor, " k"]
    batch_size: int
    keep: bool = False  # whether the ledger keeps every image and attention map, for a gallery
    clean: Verdict = field(init=False)
    attention: list[Attention] = field(init=False)
    goal: Int[Tensor, " n"] = field(init=False)  # the class to push each example to; -1 for any mistake
    forwards: int = 0  # images judged so far

    def __post_init__(self) -> None:
        verdicts = [self._judge(rows, self.image[rows]) for rows in self.batches()]
        self.clean = Verdict(
            torch.cat([verdict.prediction for verdict in verdicts]),
            torch.cat([verdict.margin for verdict in verdicts]),
            torch.cat([verdict.logits for verdict in verdicts]),
            [torch.cat(level) for level in zip(*[verdict.maps for verdict in verdicts], strict=True)],
        )
        size = (self.image.shape[2], self.image.shape[3])
        self.attention = [Attention.of(level, size) for level in self.clean.maps]
        self.goal = torch.full_like(self.label, -1)

    def __len__(self) -> int:
        return len(self.label)

    def aim(self, attack: Attack, noise: Noise) -> None:
        """Choose the class each example is pushed to, if the attack is targeted."""
        if attack.targeted is not None:
            self.goal = choose(attack.targeted, self.clean.logits, self.label, self.index, noise)

    @property
    def correct(self) -> Tensor:
        """Which examples are worth an attack: classified right when nobody attacks, and not of the goal class."""
        return (self.clean.prediction == self.label) & (self.goal != self.label)

    def reached(self, positions: Tensor, prediction: np.ndarray) -> np.ndarray:
        """Which predictions are a success: a mistake, or for targeted attacks the goal."""
        goal, label = self.goal[positions].cpu().numpy(), self.label[positions].cpu().numpy()
        return np.asarray(np.where(goal >= 0, prediction == goal, prediction != label))

    def batches(self) -> list[Tensor]:
        """Positions of all examples, in batches."""
        return list(torch.split(torch.arange(len(self.label), device=self.label.device), self.batch_size))

    def rows(self, positions: Tensor, eps: Tensor, restart: Tensor | None = None) -> Rows:
        """The attack problems of some examples at given radii."""
        restart = torch.zeros_like(positions) if restart is None else restart
        return Rows(
            self.image[positions], self.label[positions], eps, self.index[positions], restart,
            self.clean.logits[positions], self.goal[positions],
        )  # fmt: skip

    def _judge(self, positions: Tensor, image: Tensor) -> Verdict:
        self.forwards += len(positions)
        return self.classifier.judge(image, self.label[positions], self.index[positions])

    def evaluate(self, positions: Tensor, image: Tensor, eps: Tensor) -> dict[str, np.ndarray]:
        """Trusting no attack: distance and box measured, predictions made afresh, attention compared."""
        clean = self.image[positions]
        distance = measure(self.norm, clean, image, eps, self.attack, self.index[positions])
        verdict = self._judge(positions, image.clamp(0.0, 1.0))
        found = {"adv_pred": verdict.prediction, "adv_margin": verdict.margin, "distance": distance}
        size = (clean.shape[2], clean.shape[3])
        for level, before, after in zip(self.classifier.levels, self.attention, verdict.maps, strict=True):
            for metric, values in drift(before.select(positions), Attention.of(after, size)).items():
                found[f"drift_{metric}_{level}"] = values
        if self.keep:
            found |= {"image": image} | dict(zip(map_columns(self.classifier), verdict.maps, strict=True))
        return {name: values.cpu().numpy() for name, values in found.items()}


class Ledger:
    """The results of a Cell while it is computed: for each column an array (examples, radii)."""

    def __init__(self, target: Target) -> None:
        shape = (len(target), len(target.radii))
        drifts = [f"drift_{metric}_{level}" for level in target.classifier.levels for metric in _metrics()]
        self.columns: dict[str, np.ndarray] = {
            "adv_pred": np.full(shape, -1, dtype=np.int64),
            "adv_margin": np.full(shape, np.nan, dtype=np.float32),
            "distance": np.full(shape, np.nan, dtype=np.float32),
            "attacked": np.zeros(shape, dtype=bool),
            "zero_grad": np.zeros(shape, dtype=bool),
            **{name: np.full(shape, np.nan, dtype=np.float32) for name in drifts},
        }
        if target.keep:
            pictures = {
                "image": target.image,
                **dict(zip(map_columns(target.classifier), target.clean.maps, strict=True)),
            }
            for name, like in pictures.items():
                self.columns[name] = np.zeros((*shape, *like.shape[1:]), dtype=np.float32)

    def write(self, examples: np.ndarray, radius: np.ndarray | int, found: dict[str, np.ndarray]) -> None:
        """Set the columns of some (example, radius) pairs."""
        for name, values in found.items():
            self.columns[name][examples, radius] = values

    def copy(self, example: int, source: int, radius: int) -> None:
        """The row of one radius backed by the same image as another's."""
        for name, values in self.columns.items():
            values[example, radius] = False if name == "attacked" else values[example, source]


def map_columns(classifier: Classifier) -> list[str]:
    """The ledger's columns that keep attention maps, a column for each level."""
    return [f"map_{level}" for level in classifier.levels]


def _metrics() -> Iterable[str]:
    from robustatt.drift import METRICS

    return METRICS


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


def leave_alone(target: Target, ledger: Ledger, examples: np.ndarray) -> None:
    """Examples that are wrong without an attack count as wrong at every radius: their row is the clean image."""
    for chunk in torch.split(torch.from_numpy(examples).to(target.label.device), target.batch_size):
        if len(chunk):
            found = target.evaluate(chunk, target.image[chunk], torch.zeros(len(chunk), device=chunk.device))
            for radius in range(len(target.radii)):
                ledger.write(chunk.cpu().numpy(), radius, found)


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


class Pool:
    """The rows in which one stepped attack runs; a row whose run has ended makes room for the next job."""

    def __init__(self, target: Target, attack: SteppedAttack, oracle: Oracle, noise: Noise) -> None:
        self.target, self.attack, self.oracle, self.noise = target, attack, oracle, noise
        self.restarts = attack.restarts
        self.waiting: deque[Job] = deque()
        self.jobs: list[Job] = []
        self.rows: Rows | None = None
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
        answer = self.oracle.ask(
            query, self.rows.label, loss, gradient=self.attack.needs_gradient, passes=self.attack.eot
        )
        require_finite(answer.logits, self.rows.index, self.target.classifier.label)
        broken = np.zeros(len(self), dtype=bool)
        if self.attack.queries_are_candidates:
            broken = (self.rows.gain(answer.logits) > self.target.classifier.tolerance).cpu().numpy()
        flat = self.state.get("flat")
        finished = self._take(broken, query, flat)
        self.state = self.attack.step(self.rows, self.state, answer)
        self.steps += 1
        ended = ~broken & (self.steps >= self.attack.steps)
        if "done" in self.state:
            ended |= ~broken & self.state["done"].cpu().numpy()
        if ended.any():
            finished += self._take(ended, self.attack.candidate(self.state), self.state.get("flat"))
        self._keep(~(broken | ended))
        return finished

    def _take(self, chosen: np.ndarray, image: Tensor, flat: Tensor | None) -> list[Finished]:
        distance = self.state.get("distance")
        return [
            Finished(
                self.jobs[i], image[i].clone(), flat is not None and bool(flat[i]),
                np.inf if distance is None else float(distance[i]),
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


class Bracket:
    """What is known of one example: it holds at radius `held` (an index, -1 for clean) and breaks at `broken`."""

    def __init__(self, radii: int, guess: int) -> None:
        self.held, self.broken = -1, radii
        self._guess = min(max(guess, 0), radii - 1)
        self._stride = max(1, radii // 16)
        self._climbs = self._descents = 0

    def next(self) -> int | None:
        """The radius to attack next, None once the two are neighbours.

        A run that succeeds ends after a few steps, one that fails costs all of them: so come from above in short
        strides, climb in growing ones, and cut an interval in between nearer to its upper end.
        """
        if self.broken - self.held <= 1:
            return None
        if not self.held < self._guess < self.broken:
            if self._climbs == 0:
                following = self.broken - self._stride
            elif self._descents == 0:
                following = self.held + self._stride * 2 ** (self._climbs - 1)
            else:
                following = self.broken - 1 - (self.broken - self.held) // 4
            self._guess = min(max(following, self.held + 1), self.broken - 1)
        return self._guess

    def learn(self, radius: int, broken: bool) -> None:
        """Take in the outcome of a full-strength run."""
        if broken:
            self.broken, self._descents = min(self.broken, radius), self._descents + 1
        else:
            self.held, self._climbs = max(self.held, radius), self._climbs + 1

    def fell_at(self, radius: int, held: Iterable[int]) -> None:
        """A smaller radius turned out to break: the bracket moves below it, to the largest radius that held."""
        self.broken, self._climbs, self._descents = radius, 0, 0
        self.held = max((r for r in held if r < radius), default=-1)


ESTIMATE_STEPS = 2


def estimate_threshold(rows: Rows, norm: Norm, oracle: Oracle) -> Float[Tensor, " n"]:
    """Roughly the radius at which each row breaks, from three gradients; only ever used to choose where to search.

    First where a linear model with the clean gradient would break. Then twice, one step of that size along the
    steepest direction and two readings there: the zero of the secant from the clean image (mostly too large) and the
    zero of the loss linearised at that point (mostly too small). The geometric mean of the smallest of the first and
    the largest of the second is the next estimate.
    """
    answer = oracle.ask(rows.image, rows.label, stable, gradient=True)
    start = answer.loss
    assert answer.grad is not None
    radius = (-start / norm.dual_length(answer.grad).clamp_min(1e-30)).clamp(0.0, 1e6)
    above, below = torch.full_like(radius, 1e6), torch.full_like(radius, 1e-3)
    for _ in range(ESTIMATE_STEPS):
        direction = norm.steepest(answer.grad)
        image = (rows.image + per_row(torch.minimum(radius, 2 * rows.eps), direction) * direction).clamp(0.0, 1.0)
        change = image - rows.image
        answer = oracle.ask(image, rows.label, stable, gradient=True)
        assert answer.grad is not None
        secant = -start * norm.length(change) / (answer.loss - start).clamp_min(1e-9)
        along = (answer.grad * change).flatten(1).sum(1)
        linear = (along - answer.loss) / norm.dual_length(answer.grad).clamp_min(1e-30)
        above, below = torch.minimum(above, secant), torch.maximum(below, linear.clamp(max=1e6))
        radius = (above * below).sqrt()
    return radius


class GridSearch:
    """Runs a chain of attacks over a grid; each part sees only the survivors of the one before.

    The first part looks for each example's threshold alone; the others are then run where it held, just below, and
    whatever they break is searched again further down. With `independent` every radius is attacked afresh by the
    whole chain, as other libraries do.
    """

    def __init__(
        self, target: Target, parts: Sequence[Attack], oracle: Oracle, noise: Callable[[str], Noise],
        done: Callable[[int], None], independent: bool,
    ) -> None:  # fmt: skip
        self.target, self.oracle, self.done, self.independent = target, oracle, done, independent
        self.ledger = Ledger(target)
        self.pools = [self._pool(part, noise(part.name)) for part in parts]
        self.images: dict[tuple[int, int], Tensor] = {}
        self.brackets: dict[int, Bracket] = {}
        self.proved: set[tuple[int, int]] = set()  # (example, radius) that held under the whole chain
        self.counted: set[int] = set()  # examples that were reported as done

    def _pool(self, part: Attack, noise: Noise) -> Pool:
        from robustatt.pools import ExternalPool, MinimumNormPool

        if isinstance(part, MinimumNormAttack):
            return MinimumNormPool(self.target, part, self.oracle, noise, self.independent)
        if isinstance(part, ExternalAttack):
            return ExternalPool(self.target, part, noise)
        assert isinstance(part, SteppedAttack)
        return Pool(self.target, part, self.oracle, noise)

    def run(self) -> Ledger:
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
        for chunk in torch.split(torch.from_numpy(examples).to(self.target.label.device), self.target.batch_size):
            radius = estimate_threshold(
                self.target.rows(chunk, self.target.radii[-1:].expand(len(chunk))), self.target.norm, self.oracle
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
        pending: list[Finished] = []
        while True:
            for pool in self.pools:
                pool.refill()
            busy = [pool for pool in self.pools if len(pool)]
            chosen = next((pool for pool in busy if len(pool) >= self.target.batch_size), busy[0] if busy else None)
            if pending and (chosen is None or len(pending) >= len(chosen) // 4):
                batch, pending = pending[: self.target.batch_size], pending[self.target.batch_size :]
                self._judge(batch)
            elif chosen is None:
                return
            else:
                pending += chosen.advance()

    def _judge(self, batch: list[Finished]) -> None:
        device = self.target.label.device
        positions = torch.tensor([item.job.example for item in batch], device=device)
        radii = torch.tensor([item.job.radius for item in batch], device=device)
        found = self.target.evaluate(positions, torch.stack([item.image for item in batch]), self.target.radii[radii])
        wrong = self.target.reached(positions, found["adv_pred"])
        for row, item in enumerate(batch):
            values = {name: column[row] for name, column in found.items()}
            self._learn(item, values, bool(wrong[row]))

    def _learn(self, item: Finished, values: dict[str, np.ndarray], broken: bool) -> None:
        job, columns = item.job, self.ledger.columns
        before = columns["adv_margin"][job.example, job.radius]
        first = not columns["attacked"][job.example, job.radius]
        if first or broken or values["adv_margin"] < before:
            flat = item.flat and (first or columns["zero_grad"][job.example, job.radius])
            values |= {"attacked": np.asarray(True), "zero_grad": np.asarray(flat)}
            self.ledger.write(np.array(job.example), job.radius, values)
            self.images[job.example, job.radius] = item.image
        following = None if broken else self._survived(job)
        if following is not None:
            self.pools[following.part].waiting.append(following)
        elif self.independent:
            self.images.pop((job.example, job.radius), None)
        else:
            self._narrow(job, broken)
            self._continue(job.example)

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
        device = self.target.label.device
        positions = torch.tensor([example for example, _ in pairs], device=device)
        eps = self.target.radii[torch.tensor([radius for _, radius in pairs], device=device)]
        sources = [min(r for e, r in self._tested(example) if r > radius) for example, radius in pairs]
        failed = torch.stack([self.images[example, r] for (example, _), r in zip(pairs, sources, strict=True)])
        share = eps / self.target.radii[torch.tensor(sources, device=device)]
        clean = self.target.image[positions]
        image = (clean + self.target.norm.clip((failed - clean) * per_row(share, clean), eps)).clamp(0.0, 1.0)
        found = self.target.evaluate(positions, image, eps)
        reached = self.target.reached(positions, found["adv_pred"])
        fallen: set[int] = set()
        for row, (example, radius) in enumerate(pairs):
            flat = self.ledger.columns["zero_grad"][example, sources[row]]
            values = {name: column[row] for name, column in found.items()} | {"zero_grad": flat}
            self.ledger.write(np.array(example), radius, values)
            bracket = self.brackets[example]
            if reached[row] and radius < bracket.broken:
                self.images[example, radius] = image[row].clone()
                bracket.fell_at(radius, self._held(example))
                fallen.add(example)
        return fallen

    def _tested(self, example: int) -> list[tuple[int, int]]:
        return [(example, r) for r in np.flatnonzero(self.ledger.columns["attacked"][example]).tolist()]

    def _holds(self, example: int, radius: int) -> bool:
        prediction = self.ledger.columns["adv_pred"][example, radius]
        return not self.target.reached(torch.tensor([example], device=self.target.label.device), prediction)[0]

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
        for key in [key for key in self.images if key[0] == example]:
            del self.images[key]
