"""Runs a plan: every Cell that is not in the store yet is evaluated, then the records are summarised."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch

from robustatt.data.dataset import Dataset
from robustatt.engine import log
from robustatt.engine.budget import Budget
from robustatt.engine.crew import ExecutorFactory
from robustatt.engine.evidence import agrees
from robustatt.engine.inspection import Inspection, inspect, require_surrogates
from robustatt.engine.models import FrozenModels, Loader
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.pictures import keep_pictures
from robustatt.engine.rounds import going_on, run_in_rounds, seems_whole
from robustatt.engine.scheduler import CellCost, Costs, Executor, Queue, Scheduler, SetAside
from robustatt.engine.sources import drawn
from robustatt.engine.worker import Setup, automatic_batch_size
from robustatt.errors import InputError, RobustattError, RunInterrupted, first_line
from robustatt.files import refuse_link
from robustatt.health.data import check_card
from robustatt.health.records import check_records
from robustatt.health.warning import distinct
from robustatt.models.device import choose_device, hardware
from robustatt.plan import BoundPlan, Cell, Plan, images_of
from robustatt.plan.cells import PARTS
from robustatt.plan.rounds import Rounds
from robustatt.progress import NoSweepProgress, SweepProgress
from robustatt.results.aggregate import summarise
from robustatt.results.file_names import write_file_names
from robustatt.results.gallery import GALLERY_FILE
from robustatt.results.images import ImageStore
from robustatt.results.records import Store, record_folders
from robustatt.results.summary import Provenance, Stopped, Summary
from robustatt.results.summary_file import read_summary, write_summary

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3  # Cells that were set aside, in the message at the end


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep leaves behind: the records, the summary, and how many Cells were computed by this run."""

    records: pd.DataFrame
    summary: Summary
    computed: int
    ready: int
    transfer: pd.DataFrame
    """The rows of examples that were crafted on surrogates, with a column `surrogate`."""
    moved_aside: list[PurePath] = field(default_factory=list)


def run(
    plan: Plan,
    dataset: Dataset,
    load: Loader,
    out: Path,
    progress: SweepProgress | None = None,
    gallery: bool = True,
    execution: ExecutorOptions | None = None,
    budget: Budget | None = None,
) -> SweepOutcome:
    """Evaluate a plan into the folder `out`, going on where an earlier run stopped.

    Everything the user could have got wrong is checked before anything is written. `gallery` keeps pictures of a few
    examples for the report. `execution` says who computes; by default this process, with its threads as they are. `budget` is
    the time of a plan that has one, if it began before this call.

    Raises:
        InputError: the model, data or folder cannot be used, or the cluster does not answer.
        RunInterrupted: stopped half way (Ctrl-C or an error), or some Cells could not be computed; says what is safe.
    """
    budget = budget or Budget.of(plan)
    if seems_whole(plan, out):  # the best answer is there
        with bound(plan.at_once(), dataset, load, out, execution) as sweep:
            if not sweep.missing():
                return sweep.run(progress or NoSweepProgress(), gallery, budget)
    with bound(plan, dataset, load, out, execution) as sweep:
        return sweep.run(progress or NoSweepProgress(), gallery, budget)


@contextmanager
def bound(plan: Plan, dataset: Dataset, load: Loader, out: Path, execution: ExecutorOptions | None = None) -> Iterator[Sweep]:
    """A plan bound to its data and models, ready to run or to be forecast; nothing is written yet."""
    start_seconds = time.process_time()
    plan = going_on(plan, out)
    device = choose_device(plan.device)
    examples = _count(plan, dataset)
    chosen = drawn(dataset, plan)
    records = (execution.records if execution else None) or str(out / "records")
    for folder in record_folders():
        refuse_link(out / folder, "remove the link, or name the place with --records file://...")
    refuse_link(out / GALLERY_FILE.parent)
    store = Store(records)
    store.check()
    where = records if "://" in records else str(Path(records).absolute())
    rounds = Rounds(examples, whole=drawn(dataset, plan.at_once()).fingerprint) if plan.in_rounds else None
    blank = BoundPlan(plan, examples, dataset.classes, "", ("",) * len(plan.models), None, ("",) * len(plan.crafted_on))
    cells = len({cell.kind for cell in blank.cells_of_all_parts()}) if rounds else sum(1 for _ in blank.cells_of_all_parts())
    threads = execution.cell_threads(cells, torch.get_num_threads()) if execution else None
    batch_size = plan.batch_size or automatic_batch_size(dataset.image_shape, device)
    with _cluster(execution), _threads(threads) as available, FrozenModels(load, device, chosen, plan) as models:
        fingerprints, surrogates = (tuple(map(models.fingerprint, entries)) for entries in (plan.models, plan.crafted_on))
        bound = BoundPlan(plan, examples, chosen.classes, chosen.fingerprint, fingerprints, _url(execution), surrogates)
        bound = bound if rounds is None else bound.after(rounds)
        require_surrogates(plan, chosen, models)
        setup = Setup(plan, chosen.fingerprint, where, str(device), batch_size, threads)
        crew = ExecutorFactory(setup, execution or ExecutorOptions(workers=1), dataset, models, available, start_seconds)
        yield Sweep(bound, chosen, models, store, out, setup, crew, ImageStore(where) if plan.images else None)


def _cluster(execution: ExecutorOptions | None) -> AbstractContextManager[None]:
    if execution is None or execution.engine != "ray":
        return nullcontext()
    from robustatt.engine.ray_connection import connected

    return connected(execution)


def _url(execution: ExecutorOptions | None) -> str | None:
    return execution.records if execution else None


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """So many CPU threads for a Cell; yields how many there were, and sets them again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class SweepRecords:
    """The records of a sweep by what they are for."""

    own: pd.DataFrame
    drift: pd.DataFrame
    transfer: pd.DataFrame


@dataclass
class Sweep:
    """A plan with its data, models and store at hand."""

    bound: BoundPlan
    dataset: Dataset
    models: FrozenModels
    store: Store
    out: Path
    setup: Setup
    crew: ExecutorFactory
    images: ImageStore | None

    def run(self, progress: SweepProgress, gallery: bool, budget: Budget) -> SweepOutcome:
        """Compute what is missing, then summarise everything; in rounds, if the plan wants them, as far as the budget goes."""
        if self.bound.rounds is not None:
            return run_in_rounds(self, self.bound.rounds, progress, gallery, budget)
        own = self.own_keys()
        missing = self.missing()
        if not missing and (summary := _finished(self.bound, self.out)) is not None:
            found = self.read()
            if agrees(summary, found.own, found.drift, found.transfer, self.bound):
                return self.outcome(found, summary, 0)
        inspection = inspect(self.bound, self.dataset, self.models, self.setup.batch_size)
        self.prepare()
        self.bound.write(self.out)
        queries = sum(images_in(cell) for cell in self.bound.cells_of_all_parts() if cell.key in missing)
        began, computed = time.time(), len(missing & own)
        progress.begin(queries, len(own), len(own) - computed)
        with self.resumable(lambda: self._safe(missing, own)), self.workers(self.size(missing)) as executor:
            costs = self.costs()
            self.compute(self.queue(missing.copy(), costs), missing, executor, costs, progress)
        found = self.read()
        summary = self.summarise(found, inspection, began)
        if gallery:
            self.keep_pictures(found.own)
        return self.outcome(found, summary, computed)

    def own_keys(self) -> set[str]:
        """The keys of all Cells but those of the drift sample."""
        return {cell.key for cell in self.bound.cells_of_all_parts() if cell.part != "drift"}

    def missing(self, cells: Iterable[Cell] | None = None) -> set[str]:
        """The keys of those Cells, of all unless told, that have no records, or not the images that the plan wants saved."""
        cells = list(self.bound.cells_of_all_parts() if cells is None else cells)
        wanted = {cell.key: images for cell in cells if (images := images_of(self.bound.plan, cell)) is not None}
        lacking = set() if self.images is None else self.images.lacking(wanted)
        return self.store.missing(cell.key for cell in cells) | lacking

    def queue(self, missing: Set[str], costs: Costs) -> Queue:
        """The Cells that are missing in the store, longest first."""
        return Queue(((cell for cell in kind if cell.key in missing) for kind in self.bound.kinds()), costs)

    def size(self, missing: Set[str]) -> int:
        """How many workers are to compute the missing Cells."""
        return self.crew.size(len(missing), lambda: (cell for cell in self.bound.cells_of_all_parts() if cell.key in missing))

    def prepare(self) -> None:
        """Make the folders, and write what no record decides."""
        self.store.prepare(self.bound.parts())
        if self.images is not None:
            self.images.prepare()
        self.out.mkdir(parents=True, exist_ok=True)
        write_file_names(self.dataset, range(self.bound.requested), self.out)

    def read(self) -> SweepRecords:
        """The records of all Cells; the index of saved images is brought up to date."""
        white, drift, transfer = ([cell.key for cell in self.bound.cells(part)] for part in PARTS)
        if self.images is not None:
            self.images.write_index(white)
        return SweepRecords(*map(self.store.read, (white, drift, transfer)))

    def summarise(self, found: SweepRecords, inspection: Inspection, began: float, stopped: Stopped | None = None) -> Summary:
        """Summarise records into the folder; `began` is when this run did, in seconds since 1970."""
        plan, warnings = self.bound.plan, list(inspection.warnings)
        warnings += check_records(found.own, plan.attacks, found.transfer)
        for entry in plan.models:
            card = inspection.cards[entry.name]
            warnings += check_card(entry.name, card, self.dataset, found.own) if card is not None else []
        origin = _origin(self.bound, self.out, began, self.models.device).as_dict()
        said = [warning.as_dict() for warning in distinct(warnings)]
        summary = summarise(found.own, self.bound.describe(), origin, said, found.drift, found.transfer)
        if stopped is not None:
            summary = summary.model_copy(update={"stopped": stopped})
        write_summary(self.out, summary)
        return summary

    def keep_pictures(self, records: pd.DataFrame) -> None:
        """Attack a few examples of each model again, for the gallery."""
        keep_pictures(self.bound, self.dataset, self.models, records, self.out)

    def outcome(self, found: SweepRecords, summary: Summary, computed: int) -> SweepOutcome:
        """What the sweep leaves behind, of whose Cells this run computed so many."""
        aside = [*self.store.moved_aside, *(self.images.damaged if self.images else [])]
        return SweepOutcome(found.own, summary, computed, len(self.own_keys()) - computed, found.transfer, aside)

    def costs(self) -> Costs:
        """What Cells are expected to cost; what they turn out to is taken in while they are computed."""
        return Costs(self.bound.plan, self.crew.forward_seconds)

    @contextmanager
    def workers(self, count: int) -> Iterator[Executor]:
        """So many workers, until the end of the block."""
        executor = self.crew.assemble(count)
        try:
            yield executor
        finally:
            executor.close()

    def compute(self, queue: Queue, missing: set[str], executor: Executor, costs: Costs, progress: SweepProgress) -> None:
        """Have the Cells of a queue computed, and taken from `missing`. RunInterrupted if some could not be."""
        wanted = frozenset(missing)

        def finished(cell: Cell, spent: CellCost) -> None:
            missing.discard(cell.key)
            log.note(self.out, cell, spent)

        set_aside = Scheduler(queue, executor, costs, progress, finished).run()
        if set_aside:
            raise RunInterrupted(_names(set_aside)) from set_aside[0].problem
        unseen = self.store.absent(wanted)
        if unseen:
            missing |= unseen
            raise RunInterrupted(
                f"workers wrote {len(unseen)} cells where this machine does not see them: give --records a URL all reach"
            )

    @contextmanager
    def resumable(self, safe: Callable[[], str]) -> Iterator[None]:
        """What stops a run inside is a RunInterrupted that says what is safe; wrong input stays what it is."""
        try:
            yield
        except KeyboardInterrupt:
            raise RunInterrupted("stopped by Ctrl-C", 130, safe()) from None
        except InputError:
            raise
        except RunInterrupted as problem:
            raise RunInterrupted(problem.reason, problem.exit_code, safe()) from problem.__cause__
        except (RobustattError, OSError) as problem:
            raise RunInterrupted(first_line(problem), 3, safe()) from problem

    def _safe(self, missing: Set[str], own: Set[str]) -> str:
        return (
            f"Safe on disk: {len(own - missing)} of {len(own)} cells in {self.store.place}. Run the same command again to resume"
        )


def _names(set_aside: Sequence[SetAside]) -> str:
    said = "; ".join(f"{entry.cell}: {entry.cause}" for entry in set_aside[:NAMED])
    more = f"; and {len(set_aside) - NAMED} more" if len(set_aside) > NAMED else ""
    return f"{len(set_aside)} {'cell' if len(set_aside) == 1 else 'cells'} could not be computed: {said}{more}"


def _finished(bound: BoundPlan, out: Path) -> Summary | None:
    """The summary of this very plan if an earlier run completed it, pictures and all."""
    try:
        summary = read_summary(out)
        same = BoundPlan.read(out).describe() == bound.describe() == summary.plan.as_dict()
    except InputError:
        return None
    return summary if same and (out / GALLERY_FILE).exists() else None


def images_in(cell: Cell) -> int:
    """How many (example, radius) images a Cell evaluates."""
    return (cell.stop - cell.start) * max(1, len(cell.radii))


def _count(plan: Plan, dataset: Dataset) -> int:
    if plan.n is not None and plan.n > len(dataset):
        raise InputError(f"-n {plan.n}: {plan.data} {plan.split} has {len(dataset)} examples")
    if len(dataset) == 0:
        raise InputError(f"data {plan.data!r} has no examples")
    return plan.n or plan.sample or len(dataset)


def _origin(bound: BoundPlan, out: Path, began: float, device: torch.device) -> Provenance:
    costs, drift, transfer = (log.costs(out, {cell.key for cell in bound.cells(part)}) for part in PARTS)
    apart = {"drift": drift, "transfer": transfer}
    return Provenance.now(
        hardware(str(device)), finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        seconds_this_run=round(time.time() - began, 3), seconds=round(costs["seconds"], 3),
        gradients=int(costs["gradients"]), forwards=int(costs["forwards"]),
        **{f"{part}_{name}": round(value, 3) for part, spent in apart.items() if spent["seconds"] for name, value in spent.items()},
    )  # fmt: skip
