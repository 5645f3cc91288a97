"""A plan bound to a data set and to models: its Cells, the units of work, and their keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomli_w

from robustatt.attack.recipe import Recipe
from robustatt.errors import InputError
from robustatt.files import write_atomically
from robustatt.plan.drift_sample import DriftSample, Radii, at_full_strength, measured_attacks, sample_size
from robustatt.plan.entries import Document, ModelEntry
from robustatt.plan.plan import Plan, read_plan
from robustatt.plan.saved_images import CellImages

#: part of every key: raise it when the same Cell would give other numbers
EVALUATION_VERSION = 4
CELL_EXAMPLES = 256
DRIFT_KEY = "drift-"
"""How keys of Cells of the drift sample begin."""


@dataclass(frozen=True)
class Cell:
    """The unit of work: one model, one attack with its grid, one fixed range of examples [start, stop)."""

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
            "independent": self.independent and self.drift is None,
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({} if self.drift is None else {"drift": [self.drift.count, self.drift.population]}),
            **({} if self.attention is None else {"attention": self.attention}),
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]
        return digest if self.drift is None else DRIFT_KEY + digest

    @property
    def kind(self) -> tuple[str, str]:
        """Model and attack, by which costs are learnt; an attack at full strength is another kind than a search."""
        return self.model, self.attack.name if self.drift is None else at_full_strength(self.attack)

    def __str__(self) -> str:
        if self.drift is not None:
            return f"{self.model} under {self.kind[1]}, {self.stop - self.start} examples"
        return f"{self.model} under {self.attack.name}, examples {self.start} to {self.stop - 1}"


def images_of(plan: Plan, cell: Cell) -> CellImages | None:
    """What the plan wants saved of a Cell; None for nothing."""
    if plan.images is None or cell.drift is not None or not cell.radii:
        return None
    count = plan.images.examples(cell.start, cell.stop)
    return CellImages(count, plan.images.radii(cell.attack, cell.radii)) if count else None


@dataclass(frozen=True)
class BoundPlan:
    """A plan together with the data set and models it was run on, so that its Cells and keys are known.

    `records` is the URL of the records, if they are not in the folder of the results.
    """

    plan: Plan
    examples: int
    classes: tuple[str, ...]
    data_fingerprint: str
    model_fingerprints: tuple[str, ...]
    records: str | None = None

    def cells(self) -> Iterator[Cell]:
        """Every Cell of the sweep, model by model, attack by attack."""
        return (cell for kind in self.kinds() for cell in kind if cell.drift is None)

    def drift_cells(self) -> Iterator[Cell]:
        """The Cells in which drift is measured at full strength, in the same order."""
        return (cell for kind in self.kinds() for cell in kind if cell.drift is not None)

    def kinds(self) -> Iterator[Iterator[Cell]]:
        """For each model the Cells of each attack, then those of its drift sample."""
        sample, attacks = self.drift_sample
        for entry, fingerprint in zip(self.plan.models, self.model_fingerprints, strict=True):
            for attack in self.plan.attacks:
                yield self._of_kind(entry, fingerprint, attack, self.plan.radii_of(attack), None)
            for attack, radii in attacks:
                yield self._of_kind(entry, fingerprint, attack, radii, sample)

    def keys(self) -> list[str]:
        """The keys of all Cells, model by model."""
        return [cell.key for kind in self.kinds() for cell in kind]

    @cached_property
    def drift_sample(self) -> tuple[DriftSample | None, list[tuple[Recipe, Radii]]]:
        """The examples whose drift is measured at full strength, and the attacks it is measured under, with their radii."""
        attacks = measured_attacks([(entry, self.plan.radii_of(entry)) for entry in self.plan.attacks])
        count = sample_size(attacks, self.examples, self.plan.drift_n)
        return (DriftSample(count, self.examples), attacks) if count else (None, [])

    def _of_kind(
        self, entry: ModelEntry, fingerprint: str, attack: Recipe, radii: Radii, drift: DriftSample | None
    ) -> Iterator[Cell]:
        count = self.examples if drift is None else drift.count
        for start in range(0, count, CELL_EXAMPLES):
            yield Cell(
                entry.name, fingerprint, self.data_fingerprint, attack, radii, start, min(start + CELL_EXAMPLES, count),
                self.plan.seed, self.plan.independent, self.plan.precision, drift, entry.attention,
            )  # fmt: skip

    def describe(self) -> Document:
        """The plan as summary.json holds it."""
        plan = self.plan
        return {
            "data": {"name": plan.data, "split": plan.split, "fingerprint": self.data_fingerprint,
                     "n": self.examples, "classes": list(self.classes),
                     **({} if plan.sample is None else {"sample": plan.sample})},
            "models": [
                {"name": entry.name, "spec": entry.spec, "weights": entry.weights, "fingerprint": fingerprint}
                for entry, fingerprint in zip(plan.models, self.model_fingerprints, strict=True)
            ],
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
                bound.get("records"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"plan {path}: its [bound] table is incomplete ({problem}): run the sweep again") from None
        if len(result.model_fingerprints) != len(result.plan.models) or result.examples < 1:
            raise InputError(f"plan {path}: its [bound] table does not fit its models: run the sweep again")
        return result
