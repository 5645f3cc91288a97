"""Measures what the paper claims, as far as the data and weights on this machine go; what is done is not done again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from robustatt.api import sweep
from robustatt.data import load
from robustatt.eps import parse_grid
from robustatt.errors import InputError, did_you_mean
from robustatt.files import write_atomically
from robustatt.models import bundled, bundled_path, canonical, load_checkpoint
from robustatt.models.card import Card, read_card
from robustatt.models.families import ADVERSARIAL
from robustatt.models.listing import WEIGHTS
from robustatt.plan import ModelEntry
from robustatt.progress import StudyProgress
from robustatt.results.outcomes import curves_of
from robustatt.results.summary import Summary
from robustatt.studies.output import read_document
from robustatt.studies.paper.accuracy import TEST_IMAGES
from robustatt.studies.paper.finding import Localised, Measured, Swept
from robustatt.studies.paper.plan import (
    BUNDLED,
    PARTS,
    TRAINED_ON,
    DataPlace,
    PaperPlan,
    Places,
    SegmentPart,
    SweepPart,
    TransferPart,
    how_to_get,
    names_of,
    parts_of,
)
from robustatt.studies.seeds import SEED, by_network, network_of
from robustatt.studies.segment.floors import require_libraries
from robustatt.studies.segment.request import SegmentRequest
from robustatt.studies.segment.result import FILE as SEGMENT_FILE
from robustatt.studies.segment.result import ROWS as SEGMENT_ROWS
from robustatt.studies.segment.result import SegmentSummary
from robustatt.studies.segment.run import segment
from robustatt.studies.segment.run import write as write_segment
from robustatt.studies.transfer.report import write as write_transfer
from robustatt.studies.transfer.request import TransferRequest
from robustatt.studies.transfer.result import FILE as TRANSFER_FILE
from robustatt.studies.transfer.result import Transfer
from robustatt.studies.transfer.result import read as read_transfer
from robustatt.studies.transfer.run import transfer
from robustatt.version import __version__

STAMP = "measured.sha256"


class Watch(Protocol):
    """What is told how far a run is."""

    def stage(self, text: str) -> None:
        """What is being measured now."""

    def progress(self, text: str) -> AbstractContextManager[StudyProgress]:
        """The progress of what is being measured now."""


@dataclass
class PaperOutcome:
    """What was measured, the summaries of the sweeps by data set, and the commands by claim."""

    measured: Measured
    summaries: dict[str, Summary] = field(default_factory=dict)
    commands: dict[int, list[str]] = field(default_factory=dict)


def run(plan: PaperPlan, places: Places, out: Path, watch: Watch, skip: Sequence[str] = ()) -> PaperOutcome:
    """Every part of the plan but ``skip`` for which there are data and weights; results go to folders below ``out``.

    Raises:
        InputError: the plan names an unknown model, ``skip`` an unknown part, or data that is there cannot be used.
    """
    for part in skip:
        if part not in PARTS:
            raise InputError(f"--skip {part}: {did_you_mean(part, PARTS)}")
    for name in places.given:
        if name not in names_of(plan):
            raise InputError(f"--data {name}=...: it is not in the plan: {did_you_mean(name, names_of(plan))}")
    return _Run(plan, places, out, watch, skip).everything()


class _Run:
    def __init__(self, plan: PaperPlan, places: Places, out: Path, watch: Watch, skip: Sequence[str]) -> None:
        self._plan, self._out, self._watch = plan, out, watch
        found = {name: places.find(name) for name in names_of(plan)}
        self._places = {name: place for name, place in found.items() if place is not None}
        wanted = [(part, name) for part, names in parts_of(plan).items() for name in names]
        self._absent = {(part, name): how_to_get(name) for part, name in wanted if found[name] is None}
        self._absent |= {(part, name): f"left out by `--skip {part}`" for part, name in wanted if part in skip}
        self._summaries: dict[str, Summary] = {}
        self._commands: dict[int, list[str]] = {}

    def everything(self) -> PaperOutcome:
        plan = self._plan
        measured = Measured(
            sweeps=[self._sweep(part) for part in plan.sweep],
            transfer=self._transfer(),
            transfer_names=plan.transfer.data if plan.transfer else (),
            segments=self._segments(),
            segment_names=plan.segment.data if plan.segment else (),
            absent=self._absent,
        )
        return PaperOutcome(measured, self._summaries, self._commands)

    def _note(self, command: str, *claims: int) -> None:
        for claim in claims:
            self._commands.setdefault(claim, []).append(command)

    def _sweep(self, part: SweepPart) -> Swept:
        networks = networks_of(self._plan.weights_for(part), part.data, part.models)
        cards = {label: read_card(file) for label, file in networks.items()}
        absent = self._absent.get(("sweep", part.data), "")
        if not absent and not networks:
            absent = f"no weights: `robustatt train --data {part.data}` makes them (docs/training.md)"
        if absent:
            return Swept(part.data, cards, absent=absent)
        sides = {card.input_size for card in cards.values()}
        if len(sides) > 1:
            raise InputError(f"weights for {part.data} are for images of {sorted(sides)} pixels: give those of one size")
        (side,) = sides
        place, out = self._places[part.data], self._out / part.data
        usual = part.data in TEST_IMAGES
        self._note(part.command(place, shown(networks), None if usual else side, out, self._plan.seed), 1, 5)
        self._watch.stage(f"attacking {', '.join(networks)} on {part.data}")
        dataset = load(place.spec, root=place.root, image_size=None if usual else side)
        modules = {label: load_checkpoint(file)[0] for label, file in networks.items()}
        n = None if part.n is None else min(part.n, len(dataset))
        found = sweep(modules, dataset, part.attacks, part.eps, out, self._plan.seed, n=n)
        self._summaries[part.data] = found.typed_summary
        return Swept(part.data, cards, curves_of(found.records), whole=n in (None, len(dataset)))

    def _entries(self, wanted: Sequence[str]) -> tuple[ModelEntry, ...]:
        """The networks whose features and maps are measured.

        Raises:
            InputError: a name that is no network, or none has weights.
        """
        networks = networks_of(self._plan.weights, TRAINED_ON, wanted)
        if not networks:
            have = list(networks_of(self._plan.weights, TRAINED_ON, ()))
            raise InputError(
                f"models {', '.join(wanted)}: no weights for {TRAINED_ON} are there: {did_you_mean(wanted[0], have)}"
            )
        return tuple(ModelEntry(label, network_of(label), str(file)) for label, file in networks.items())

    def _transfer(self) -> Transfer | None:
        part = self._plan.transfer
        places = {name: self._places[name] for name in part.data if ("transfer", name) not in self._absent} if part else {}
        if part is None or not places:
            return None
        entries, out = self._entries(part.models), self._out / "transfer"
        self._note(part.command(places, _shown_entries(entries), out, self._plan.seed), 3)
        stamp = _stamp(self._plan.seed, part, entries, places)
        if not _is_done(out / TRANSFER_FILE, stamp):
            with self._watch.progress("fixed features and linear SVMs") as progress:
                found = transfer(_transfer_request(part, entries, places, self._plan.seed), progress)
            write_transfer(found, out)
            write_atomically(out / STAMP, stamp.encode())
        return read_transfer(out)

    def _segments(self) -> dict[str, Localised]:
        part, found = self._plan.segment, {}
        lacking = _lacking()
        for name in part.data if part else ():
            if part is not None and ("segment", name) not in self._absent:
                if lacking:
                    self._absent["segment", name] = lacking
                    continue
                if self._places[name].root is not None:
                    self._absent["segment", name] = f"no masks: give Parquet files with masks by `--data {name}=DIR`"
                    continue
                found[name] = self._segment(part, name)
        return found

    def _segment(self, part: SegmentPart, name: str) -> Localised:
        entries, out = self._entries(part.models), self._out / f"segment-{name}"
        self._note(part.command(name, _shown_entries(entries), out, self._plan.seed), 4, 6)
        place = self._places[name]
        stamp = _stamp(self._plan.seed, part, entries, {name: place})
        if not _is_done(out / SEGMENT_FILE, stamp):
            request = SegmentRequest(
                entries, Path(place.spec), trained_on=TRAINED_ON, sample=part.sample.get(name), attack=part.attack,
                eps=parse_grid(part.eps) if part.eps else (), attack_n=part.attack_n, seed=self._plan.seed,
            )  # fmt: skip
            with self._watch.progress(f"maps against masks on {name}") as progress:
                measured = segment(request, progress)
            write_segment(measured, out)
            write_atomically(out / STAMP, stamp.encode())
        summary = read_document(SegmentSummary, out / SEGMENT_FILE, "robustatt segment")
        return Localised(summary, pd.read_parquet(out / SEGMENT_ROWS))


def _lacking() -> str:
    """Which library segment lacks on this machine, and how to get it; empty if none."""
    try:
        require_libraries()
    except InputError as problem:
        return str(problem)
    return ""


def networks_of(folder: Path | None, data: str, wanted: Sequence[str]) -> dict[str, Path]:
    """Weights files by label, in the paper's order: of a folder every seed of a network, or those bundled for a data set.

    Adversarially trained networks are there if they are ``wanted`` by name.

    Raises:
        InputError: a name that is no network, or a card that cannot be read.
    """
    for name in wanted:
        canonical(name.removesuffix(ADVERSARIAL))
    if folder is None:
        files = {name: bundled_path(name, data) for name in bundled().get(data, ())}
    else:
        files = {path.stem: path for path in folder.glob("*.safetensors")}
    chosen: dict[str, Path] = {}
    for network, labels in by_network(files).items():
        if network in wanted or (not wanted and not network.endswith(ADVERSARIAL)):
            chosen |= {label: files[label] for label in labels if _is_named_as_trained(label, read_card(files[label]))}
    return chosen


def _is_named_as_trained(label: str, card: Card) -> bool:
    """Whether a file's name is that of its network, and of its seed if it names one."""
    network = card.name + (ADVERSARIAL if card.adversarial else "")
    return label in (network, f"{network}{SEED}{card.seed}")


def shown(networks: Mapping[str, Path]) -> dict[str, str]:
    """Weights files as commands name them: nothing for bundled ones, else from the root of the repository or a folder DIR."""
    root = Path(__file__).resolve().parents[3]
    found = {}
    for label, file in networks.items():
        whole = file.resolve()
        inside = whole.relative_to(root).as_posix() if whole.is_relative_to(root) else f"DIR/{file.name}"
        found[label] = BUNDLED if whole.parent == WEIGHTS / TRAINED_ON else inside
    return found


def _shown_entries(entries: Sequence[ModelEntry]) -> dict[str, str]:
    return shown({entry.name: Path(str(entry.weights)) for entry in entries})


def _transfer_request(
    part: TransferPart, entries: tuple[ModelEntry, ...], places: Mapping[str, DataPlace], seed: int
) -> TransferRequest:
    roots = {place.root for place in places.values() if place.root is not None}
    if len(roots) > 1:
        raise InputError("transfer: torchvision's files lie in several folders: put them into one --data-root")
    specs = tuple(place.spec for place in places.values())
    return TransferRequest(
        models=entries, data=specs, names=tuple(places), trained_on=TRAINED_ON, folds=part.folds, sample=part.sample,
        seed=seed, data_root=next(iter(roots), None),
    )  # fmt: skip


def _stamp(seed: int, part: TransferPart | SegmentPart, entries: Sequence[ModelEntry], places: Mapping[str, DataPlace]) -> str:
    """The hash of all that decides a result: this version, the plan, the weights, and name, size and time of the data's files."""
    digest = hashlib.sha256(f"{__version__}|{seed}|{part.model_dump_json()}|{list(places)}".encode())
    for entry in entries:
        digest.update(f"{entry.name}|{hashlib.sha256(Path(str(entry.weights)).read_bytes()).hexdigest()}".encode())
    for place in places.values():
        for file in place.files():
            status = file.stat()
            digest.update(f"{file.name}|{status.st_size}|{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _is_done(result: Path, stamp: str) -> bool:
    """Whether a result is there and of the same plan, weights and data."""
    try:
        return result.exists() and (result.parent / STAMP).read_text() == stamp
    except OSError:
        return False
