"""Sweeps in rounds: examples in a random order, a few at a time over all models and attacks, until time or precision ends it.

After every round the examples done are a random sample that every model has met under every attack, whatever they cost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustatt.engine import log
from robustatt.engine.budget import Budget
from robustatt.engine.inspection import Inspection, inspect
from robustatt.engine.scheduler import Executor, Queue
from robustatt.errors import InputError
from robustatt.evaluate.gallery_examples import MAX_COST
from robustatt.plan import BoundPlan, Cell, Plan, Rounds
from robustatt.plan.limits import GateRule
from robustatt.plan.rounds import SMALLEST
from robustatt.progress import SweepProgress
from robustatt.results import gate
from robustatt.results.plan_info import PlanInfo
from robustatt.results.precision import narrow_enough
from robustatt.results.records import Store
from robustatt.results.reference import read_reference
from robustatt.results.summary import Stopped, Summary
from robustatt.results.summary_file import write_summary

if TYPE_CHECKING:
    from robustatt.engine.sweep import Sweep, SweepOutcome, SweepRecords

PICTURES = 9  # examples that are attacked again for the gallery, at most


def going_on(plan: Plan, out: Path) -> Plan:
    """The plan, in rounds if its folder holds this very sweep begun with limits: their examples are in another order."""
    earlier = None if plan.in_rounds else _same_sweep(plan, out)
    return plan if earlier is None or earlier.rounds is None else replace(plan, rounds=True)


def seems_whole(plan: Plan, out: Path) -> bool:
    """Whether the folder of a plan with limits seems to hold all of the sweep without them, by the names of its records."""
    earlier = None if plan.limits is None else _same_sweep(plan, out)
    if earlier is None or earlier.rounds is not None:
        return False
    return not Store(earlier.records or out / "records", read_only=True).absent(earlier.keys())


def _same_sweep(plan: Plan, out: Path) -> BoundPlan | None:
    """What the folder holds if it is this sweep, in rounds or not, whatever the limits and what decides no number."""
    try:
        bound = BoundPlan.read(out)
    except InputError:
        return None
    earlier = bound.plan
    here = replace(
        plan, limits=None, rounds=earlier.rounds, device=earlier.device, batch_size=earlier.batch_size, drift_n=earlier.drift_n,
        images=earlier.images, baseline=earlier.baseline, data_root=earlier.data_root, download=earlier.download,
        compile=earlier.compile,
    )  # fmt: skip
    return bound if here.to_toml() == earlier.without_limits().to_toml() else None


def known_ends(out: Path, bound: BoundPlan) -> tuple[int, ...]:
    """Where the rounds end that an earlier run took of the same examples in the same order."""
    try:
        earlier = BoundPlan.read(out)
    except InputError:
        return ()
    same = earlier.data_fingerprint == bound.data_fingerprint
    return earlier.rounds.known() if same and earlier.rounds is not None else ()


def run_in_rounds(sweep: Sweep, rounds: Rounds, progress: SweepProgress, gallery: bool, budget: Budget) -> SweepOutcome:
    """Round after round, summarised after each, until all is done or a limit is reached."""
    rule = _Gate.of(sweep.bound)
    inspection = inspect(sweep.bound, sweep.dataset, sweep.models, sweep.setup.batch_size)
    sweep.prepare()
    return _RunInRounds(sweep, rounds, progress, budget, inspection, gallery, rule).run()


class _Gate:
    """The reference that a sweep is held against after every round.

    Raises:
        InputError: there is no reference, or it is of another plan.
    """

    def __init__(self, rule: GateRule, bound: BoundPlan) -> None:
        self._rule, self._reference = rule, read_reference(Path(rule.reference))
        now = gate.whole_identity(PlanInfo.model_validate(bound.describe()))
        refused = [change for change in gate.plan_changes(self._reference.identity, now) if change.kind != "weights"]
        if refused:
            raise InputError(f"--against {rule.reference}: not comparable: {refused[0]}")

    @staticmethod
    def of(bound: BoundPlan) -> _Gate | None:
        """That of a plan; None if it has none."""
        limits = bound.plan.limits
        return None if limits is None or limits.against is None else _Gate(limits.against, bound)

    def decided(self, found: SweepRecords, summary: Summary) -> bool:
        """Whether the verdict is known."""
        return gate.check(found.own, summary, self._reference, self._rule.max_drop, self._rule.alpha).verdict != "undecided"


class _RunInRounds:
    """One run of a sweep in rounds."""

    def __init__(
        self, sweep: Sweep, rounds: Rounds, progress: SweepProgress, budget: Budget, inspection: Inspection, gallery: bool,
        rule: _Gate | None,
    ) -> None:  # fmt: skip
        self._sweep, self._rounds, self._progress, self._budget = sweep, rounds, progress, budget
        self._inspection, self._gallery = inspection, gallery
        self._first = sweep.bound.round(min(SMALLEST, rounds.of))  # a Cell of each kind
        self._known = known_ends(sweep.out, sweep.bound)
        self._began, self._computed = time.time(), 0
        self._missing: set[str] = set()
        self._costs = sweep.costs()
        self._gate = rule
        self._executor: Executor | None = None
        self._stack = ExitStack()

    def run(self) -> SweepOutcome:
        sweep, budget = self._sweep, self._budget
        images = sum(max(1, len(cell.radii)) for cell in self._first)
        with self._stack, sweep.resumable(self._safe):
            self._take_what_is_there()
            self._progress.begin(images * (self._rounds.of - self._rounds.done), len(self._first), 0)
            found, summary = self._look()
            while (reason := self._reason(found, summary)) is None and (end := self._next_end()) is not None:
                self._make_ready()
                began = budget.spent
                examples = self._take(end)
                taken = budget.spent - began
                self._measure_drift()
                began = budget.spent
                found, summary = self._look()
                budget.took(examples, taken + budget.spent - began)
                budget.reserve = self._seconds_for_pictures()
            summary = summary.model_copy(update={"stopped": Stopped(reason=reason or "time", seconds=round(budget.spent, 1))})
            write_summary(sweep.out, summary)
            if self._gallery:
                sweep.keep_pictures(found.own)
        return sweep.outcome(found, summary, self._computed)

    def _reason(self, found: SweepRecords, summary: Summary) -> Literal["all", "until", "gate"] | None:
        if self._rounds.done == self._rounds.of:
            return "all"
        if self._gate is not None and self._rounds.done and self._gate.decided(found, summary):
            return "gate"
        return "until" if narrow_enough(summary, self._sweep.bound.plan.limits) else None

    def _look(self) -> tuple[SweepRecords, Summary]:
        found = self._sweep.read()
        summary = self._sweep.summarise(found, self._inspection, self._began)
        self._progress.looked(summary, self._budget.spent)
        return found, summary

    def _take_what_is_there(self) -> None:
        """The rounds of earlier runs whose Cells are all in the store; what these cost tells how fast the next will be."""
        whole = self._rounds
        for end in self._known:
            if whole.done < end <= whole.of and not self._sweep.missing(self._sweep.bound.round(end)):
                whole = whole.finish(end)
                self._sweep.bound = self._sweep.bound.after(whole)
            else:
                break
        self._rounds = whole
        self._write()
        cells = {cell.key: cell for cell in self._sweep.bound.cells_of_all_parts()}
        known = log.seconds(self._sweep.out, set(cells))
        for key, seconds in known.items():
            self._costs.learn(cells[key], seconds)
        if whole.done and known:
            self._budget.pace = sum(self._costs.per_example(*cell.kind) for cell in self._first)
            self._budget.reserve = self._seconds_for_pictures()

    def _write(self) -> None:
        """The rounds so far, for whoever reads the folder and for the next run."""
        self._sweep.bound = self._sweep.bound.after(self._rounds)
        self._sweep.bound.write(self._sweep.out)

    def _next_end(self) -> int | None:
        return self._budget.next_end(self._rounds.done, self._rounds.of, self._known, self._to_compute)

    def _to_compute(self, end: int) -> float:
        """How many examples have to be computed up to there; a part of one where some kinds have it."""
        return self._lacking(end)[2]

    def _lacking(self, end: int) -> tuple[list[Cell], set[str], float]:
        """The Cells of the round that ends there, the keys of those that are missing, and how many examples these are of each kind."""
        cells = self._sweep.bound.round(end)
        missing = self._sweep.missing(cells)
        return cells, missing, sum(cell.stop - cell.start for cell in cells if cell.key in missing) / len(self._first)

    def _make_ready(self) -> None:
        """Start the workers, once, and wait for the first: their start is no part of a round."""
        if self._executor is not None:
            return
        budget, bound = self._budget, self._sweep.bound
        left = None if budget.seconds is None else max(0.0, budget.seconds - budget.spent)
        rest = replace(bound, rounds=None, examples=bound.requested - self._rounds.done)
        count = max(1, self._sweep.crew.size(len(self._first), rest.cells_of_all_parts, left))
        self._executor = self._stack.enter_context(self._sweep.workers(count))
        while self._executor.room() == 0:
            self._executor.wait(lambda _: None)

    def _take(self, end: int) -> float:
        """Compute the round that ends there; how many examples that took, a part of one where some kinds had it."""
        cells, missing, examples = self._lacking(end)
        self._rounds = self._rounds.begin(end)
        self._write()
        self._compute(cells, missing)
        self._computed += sum(cell.key in missing for cell in cells)
        self._rounds = self._rounds.finish(end)
        self._write()
        return examples

    def _measure_drift(self) -> None:
        """Drift at full strength, if it is to be measured: on a sample of all examples, so once."""
        cells = list(self._sweep.bound.cells("drift"))
        self._compute(cells, self._sweep.missing(cells))

    def _compute(self, cells: Sequence[Cell], missing: set[str]) -> None:
        assert self._executor is not None
        self._missing = missing.copy()
        if missing:
            queue = Queue((iter([cell]) for cell in cells if cell.key in missing), self._costs)
            self._sweep.compute(queue, self._missing, self._executor, self._costs, self._progress)

    def _seconds_for_pictures(self) -> float:
        """What the gallery will take in this process, at most, by what the attacks have cost."""
        if not self._gallery:
            return 0.0
        shown: dict[str, float] = {}
        for cell in self._first:
            if not cell.part and not cell.attack.unbounded and sum(cell.attack.cost()) <= MAX_COST:
                seconds = PICTURES * self._costs.per_example(*cell.kind)
                shown[cell.model] = max(shown.get(cell.model, 0.0), seconds)
        return sum(shown.values())

    def _safe(self) -> str:
        done, of = self._rounds.done, self._rounds.of
        return (
            f"Safe on disk: {done:,} of {of:,} examples under every attack, summarised in {self._sweep.out}, and what is finished "
            "of the round begun. Run the same command again to go on"
        )
