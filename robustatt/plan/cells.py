"""A plan bound to a data set and to models: its Cells, the units of work, and their keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import tomli_w

from robustatt.attack.recipe import Recipe
from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.plan.drift_sample import DriftSample, Radii, at_full_strength, measured_attacks, sample_size
from robustatt.plan.entries import Document, ModelEntry
from robustatt.plan.plan import Plan, read_plan
from robustatt.plan.rounds import LARGEST, Rounds
from robustatt.plan.saved_images import CellImages
from robustatt.plan.surrogates import can_be_crafted, for_transfer

#: part of every key: raise it when the same Cell would give other numbers
EVALUATION_VERSION = 4
CELL_EXAMPLES = LARGEST  # a round is one Cell of each kind
Part = Literal["", "drift", "transfer"]
"""What records are for: accuracy, of which all other aggregates are made too; the drift sample; examples from surrogates."""
PARTS: tuple[Part, ...] = ("", "drift", "transfer")
APART = PARTS[1:]
"""Parts whose records have a folder of their own, so that every row beside them counts for accuracy."""


def part_of(key: str) -> Part:
    """Which part of a sweep the Cell of that key belongs to."""
    return next((part for part in APART if key.startswith(f"{part}-")), "")


@dataclass(frozen=True)
class Cell:
    """The unit of work: one model, one attack with its grid, one fixed range of examples [start, stop).

    With `targets` (names and fingerprints of models) the model is a surrogate: the attack is run on it once, and the Cell has
    the rows of every target.
    """

    model: str
    model_fingerprint: str
    data_fingerprint: str
    attack: Recipe
    radii: tuple[str, ...]
    start: int
    stop: int
    seed: int
    independent: bool
    precision: str = "float32"
    drift: DriftSample | None = None  # of a Cell of the drift sample, in which `start` and `stop` count
    attention: str | None = None
    targets: tuple[tuple[str, str], ...] = ()

    @property
    def part(self) -> Part:
        """Which part of the sweep its records belong to."""
        return "transfer" if self.targets else "" if self.drift is None else "drift"

    @property
    def key(self) -> str:
        """The hash of everything that decides this Cell's numbers; its records are in `records/<key>.parquet`."""
        decisive = {
            "semantics": EVALUATION_VERSION,
            "model": [self.model, self.model_fingerprint],
            "data": self.data_fingerprint,
            "attack": self.attack.decisive(),
            "radii": self.radii,
            "range": [self.start, self.stop],
            "seed": self.seed,
            "independent": self.independent and not self.part,
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({} if self.drift is None else {"drift": [self.drift.count, self.drift.population]}),
            **({} if self.attention is None else {"attention": self.attention}),
            **({"targets": self.targets} if self.targets else {}),
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]
        return f"{self.part}-{digest}" if self.part else digest

    @property
    def kind(self) -> tuple[str, str]:
        """Model and attack, by which costs are learnt; an attack at full strength is another kind than a search."""
        names = {"": self.attack.name, "drift": at_full_strength(self.attack), "transfer": for_transfer(self.attack)}
        return self.model, names[self.part]

    def __str__(self) -> str:
        if self.targets:
            return f"{self.attack.name} on {self.model} for {len(self.targets)} models, examples {self.start} to {self.stop - 1}"
        if self.drift is not None:
            return f"{self.model} under {self.kind[1]}, {self.stop - self.start} examples"
        return f"{self.model} under {self.attack.name}, examples {self.start} to {self.stop - 1}"


def images_of(plan: Plan, cell: Cell) -> CellImages | None:
    """What the plan wants saved of a Cell; None for nothing, as of the drift sample and of surrogates."""
    if plan.images is None or cell.part or not cell.radii:
        return None
    count = plan.images.examples(cell.start, cell.stop)
    return CellImages(count, plan.images.radii(cell.attack, cell.radii)) if count else None


@dataclass(frozen=True)
class BoundPlan:
    """A plan together with the data set and models it was run on, so that its Cells and keys are known.

    `examples` is how many count. `records` is the URL of the records, if they are not in the folder of the results.
    `surrogate_fingerprints` are of the plan's `crafted_on`. A plan in rounds has the `rounds` that are whole so far.
    """

    plan: Plan
    examples: int
    classes: tuple[str, ...]
    data_fingerprint: str
    model_fingerprints: tuple[str, ...]
    records: str | None = None
    surrogate_fingerprints: tuple[str, ...] = ()
    rounds: Rounds | None = None

    def after(self, rounds: Rounds) -> BoundPlan:
        """The same plan with other rounds; the examples of the whole ones count."""
        return replace(self, rounds=rounds, examples=rounds.done)

    def round(self, end: int) -> list[Cell]:
        """The Cells of the round after the whole ones that ends there, model by model."""
        done = self.rounds.done if self.rounds is not None else 0
        ahead = self.after(Rounds(end, (*(self.rounds.ends if self.rounds is not None else ()), end)))
        return [cell for kind in ahead.kinds() for cell in kind if cell.part != "drift" and cell.start == done]

    def cells(self, part: Part = "") -> Iterator[Cell]:
        """Every Cell of a part of the sweep, model by model, attack by attack: those of accuracy unless told."""
        return (cell for kind in self.kinds() for cell in kind if cell.part == part)

    def cells_of_all_parts(self) -> Iterator[Cell]:
        """Every Cell, kind by kind."""
        return (cell for kind in self.kinds() for cell in kind)

    def parts(self) -> set[Part]:
        """The parts beside accuracy that the sweep has."""
        return {*(("drift",) if self.drift_sample[0] is not None else ()), *(("transfer",) if self.plan.crafted_on else ())}

    @property
    def requested(self) -> int:
        """How many examples were asked for."""
        return self.examples if self.rounds is None else self.rounds.of

    def kinds(self) -> Iterator[Iterator[Cell]]:
        """For each model the Cells of each attack, then those of its drift sample; then those of each surrogate."""
        sample, attacks = self.drift_sample
        for entry, fingerprint in zip(self.plan.models, self.model_fingerprints, strict=True):
            for attack in self.plan.attacks:
                yield self._of_kind(entry, fingerprint, attack, self.plan.radii_of(attack), None)
            for attack, radii in attacks:
                yield self._of_kind(entry, fingerprint, attack, radii, sample)
        targets = tuple(sorted(zip([entry.name for entry in self.plan.models], self.model_fingerprints, strict=True)))
        for entry, fingerprint in zip(self.plan.crafted_on, self.surrogate_fingerprints, strict=True):
            for attack in filter(can_be_crafted, self.plan.attacks):
                yield self._of_kind(entry, fingerprint, attack, self.plan.radii_of(attack), None, targets)

    def keys(self) -> list[str]:
        """The keys of all Cells, model by model."""
        return [cell.key for kind in self.kinds() for cell in kind]

    @cached_property
    def drift_sample(self) -> tuple[DriftSample | None, list[tuple[Recipe, Radii]]]:
        """The examples whose drift is measured at full strength, and the attacks it is measured under, with their radii."""
        attacks = measured_attacks([(entry, self.plan.radii_of(entry)) for entry in self.plan.attacks])
        limited = self.plan.limits is not None and self.plan.drift_n is None
        count = 0 if limited else sample_size(attacks, self.requested, self.plan.drift_n)
        return (DriftSample(count, self.requested), attacks) if count else (None, [])

    def _of_kind(
        self, entry: ModelEntry, fingerprint: str, attack: Recipe, radii: Radii, drift: DriftSample | None,
        targets: tuple[tuple[str, str], ...] = (),
    ) -> Iterator[Cell]:  # fmt: skip
        for start, stop in self._ranges(drift):
            yield Cell(
                entry.name, fingerprint, self.data_fingerprint, attack, radii, start, stop,
                self.plan.seed, self.plan.independent, self.plan.precision, drift, entry.attention, targets,
            )  # fmt: skip

    def _ranges(self, drift: DriftSample | None) -> Iterator[tuple[int, int]]:
        if drift is None and self.rounds is not None:
            yield from self.rounds.ranges()
            return
        count = self.examples if drift is None else drift.count
        for start in range(0, count, CELL_EXAMPLES):
            yield start, min(start + CELL_EXAMPLES, count)

    def describe(self) -> Document:
        """The plan as summary.json holds it."""
        plan = self.plan
        return {
            "data": {"name": plan.data, "split": plan.split, "fingerprint": self.data_fingerprint,
                     "n": self.examples, "classes": list(self.classes),
                     **({} if plan.sample is None else {"sample": plan.sample})},
            "models": _described(plan.models, self.model_fingerprints),
            **({"surrogates": _described(plan.crafted_on, self.surrogate_fingerprints)} if plan.surrogates else {}),
            "attacks": [
                {**entry.model_dump(mode="json", exclude_none=True, exclude={"eps"}), "fingerprint": entry.fingerprint(),
                 **({"radii": list(plan.radii_of(entry))} if entry.name in dict(plan.grids) else {})}
                for entry in plan.attacks
            ],
            "eps": list(plan.radii() or plan.radii_of(plan.attacks[0])),
            "seed": plan.seed,
            "evaluation": "independent" if plan.independent else "threshold search",
            **({} if plan.precision == "float32" else {"precision": plan.precision}),
            **({} if plan.baseline is None else {"baseline": plan.baseline}),
            **({} if self.rounds is None else {"rounds": {"ends": list(self.rounds.ends), "of": self.rounds.of, "whole": self.rounds.whole, **_limits(plan)}}),
            "semantics": EVALUATION_VERSION,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """`plan.toml`: the plan as a user could have written it, and under [bound] what it was run on."""
        document = self.plan.to_toml()
        document["bound"] = {
            "examples": self.examples,
            "classes": list(self.classes),
            "data_fingerprint": self.data_fingerprint,
            "model_fingerprints": list(self.model_fingerprints),
            **({} if self.records is None else {"records": self.records}),
            **({} if self.rounds is None else _written(self.rounds)),
            **({"surrogate_fingerprints": list(self.surrogate_fingerprints)} if self.surrogate_fingerprints else {}),
        }
        write_atomically(folder / "plan.toml", tomli_w.dumps(document).encode())

    @staticmethod
    def read(folder: Path) -> BoundPlan:
        """The bound plan of an output folder; InputError if there is none or it is broken."""
        path = folder / "plan.toml"
        if not path.exists():
            raise InputError(f"{folder}: no plan.toml here: give the folder a sweep wrote (its --out)")
        document = read_plan(path)
        bound = document.get("bound")
        try:
            if not isinstance(bound, dict):
                raise KeyError("bound")
            if not isinstance(bound.get("records", ""), str):
                raise TypeError("records is not text")
            result = BoundPlan(
                Plan.from_toml(document, where=f"plan {path}"), int(bound["examples"]), tuple(map(str, bound["classes"])),
                str(bound["data_fingerprint"]), tuple(map(str, bound["model_fingerprints"])),
                bound.get("records"), tuple(map(str, bound.get("surrogate_fingerprints", []))), _read_rounds(bound),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"plan {path}: its [bound] table is incomplete ({problem}): run the sweep again") from None
        counts = [(result.model_fingerprints, result.plan.models), (result.surrogate_fingerprints, result.plan.crafted_on)]
        rounds = result.rounds
        few = result.examples < 1 if rounds is None else not rounds.is_sound() or result.examples != rounds.done
        apart = (rounds is not None) != result.plan.in_rounds
        if any(len(prints) != len(entries) for prints, entries in counts) or few or apart:
            raise InputError(f"plan {path}: its [bound] table does not fit its models: run the sweep again")
        return result


def _limits(plan: Plan) -> Document:
    return {} if plan.limits is None else plan.limits.to_toml()


def _written(rounds: Rounds) -> Document:
    return {
        "of": rounds.of,
        "whole": rounds.whole,
        "rounds": list(rounds.ends),
        **({} if rounds.begun is None else {"begun": rounds.begun}),
    }


def _read_rounds(bound: Document) -> Rounds | None:
    if "rounds" not in bound:
        return None
    begun = bound.get("begun")
    ends = tuple(map(int, bound["rounds"]))
    return Rounds(int(bound["of"]), ends, None if begun is None else int(begun), str(bound.get("whole", "")))


def _described(entries: Sequence[ModelEntry], fingerprints: Sequence[str]) -> list[Document]:
    """Models as summary.json holds them."""
    return [
        {"name": entry.name, "spec": entry.spec, "weights": entry.weights, "fingerprint": fingerprint}
        for entry, fingerprint in zip(entries, fingerprints, strict=True)
    ]
