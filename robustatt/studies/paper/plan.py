"""What `robustatt paper` is to measure: a TOML file, checked, with the command that measures each part by itself.

And where each data set lies on this machine; commands say DIR for the folder of the data.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustatt.data.places import PLACES, default_root
from robustatt.errors import InputError, first_mistake, said_of
from robustatt.plan import read_plan
from robustatt.plan.checks import require_unique
from robustatt.studies.seeds import network_of

BUNDLED = ""
"""In place of a weights file: the weights that come with the package."""
PARTS = ("sweep", "transfer", "segment")
TRAINED_ON = "cifar10"
"""Whose networks' features and maps are measured."""


@dataclass(frozen=True)
class DataPlace:
    """Where a data set lies: what ``--data`` is given, and ``--data-root`` for torchvision's files."""

    spec: str
    root: Path | None = None

    def files(self) -> list[Path]:
        """All its files, in order."""
        if self.root is not None:
            return sorted(self.root.glob(PLACES[self.spec]))
        path = Path(self.spec)
        return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


Flag = tuple[str, object]
"""A flag and its value; one whose value is None is left out."""


def _command(command: str, seed: int, out: Path, *flags: Flag) -> str:
    given = [*flags, ("--seed", seed), ("--out", out.as_posix())]
    return shlex.join(["robustatt", command, *(str(word) for flag in given if flag[1] is not None for word in flag)])


def _each(flag: str, values: Iterable[object]) -> list[Flag]:
    return [(flag, value) for value in values]


def _where(name: str, place: DataPlace) -> str:
    """A data set as the command is given it: torchvision's by name, others as a folder in DIR."""
    return name if place.root is not None else f"DIR/{name}"


def _root(places: Iterable[DataPlace]) -> Flag:
    return "--data-root", "DIR" if any(place.root is not None for place in places) else None


def _networks(files: Mapping[str, str]) -> list[Flag]:
    """Weights files by label; those that are bundled go by their network's name alone."""
    if all(file == BUNDLED for file in files.values()):
        return _each("--model", files)
    return [*_each("--model", [f"{label}={network_of(label)}" for label in files]), *_each("--weights", files.values())]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SweepPart(_Part):
    """Attacked images of one data set. ``models``: by default all that have weights; ``n``: the first so many.

    ``weights``: a folder of NAME.safetensors or NAME-seedN.safetensors; by default the plan's for CIFAR-10, and otherwise the
    bundled ones of this data set.
    """

    data: str
    weights: Path | None = None
    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ("fgsm",)
    eps: str = "1,2,4,8,16"
    n: int | None = Field(default=None, ge=1)

    def command(self, place: DataPlace, files: Mapping[str, str], side: int | None, out: Path, seed: int) -> str:
        """For weights files by label, on images of that side."""
        attacks = [*_each("--attack", self.attacks), ("--eps", self.eps), ("-n", self.n)]
        where: list[Flag] = [("--data", _where(self.data, place)), _root([place]), ("--input-size", side)]
        return _command("sweep", seed, out, *where, *_networks(files), *attacks)


class TransferPart(_Part):
    """Fixed features on other data sets; ``sample``: so many images of each part of a set."""

    data: tuple[str, ...]
    models: tuple[str, ...] = ()
    folds: int = Field(default=5, ge=2)
    sample: int | None = Field(default=None, ge=1)

    def command(self, places: Mapping[str, DataPlace], files: Mapping[str, str], out: Path, seed: int) -> str:
        """For weights files by label on the data sets that are there."""
        data = _each("--data", [_where(name, place) for name, place in places.items()])
        how: list[Flag] = [_root(places.values()), ("--folds", self.folds), ("--sample", self.sample)]
        return _command("transfer", seed, out, *_networks(files), *data, *how)


class SegmentPart(_Part):
    """Maps against masks. ``sample``: so many images of a set by its name, else all; ``attack_n`` of those reported are attacked."""

    data: tuple[str, ...]
    models: tuple[str, ...] = ()
    sample: dict[str, Annotated[int, Field(ge=5)]] = Field(default_factory=dict)
    eps: str | None = None
    attack: str = "pgd"
    attack_n: int | None = Field(default=None, ge=1)

    def command(self, name: str, files: Mapping[str, str], out: Path, seed: int) -> str:
        """For weights files by label on one data set."""
        attack: list[Flag] = [("--eps", self.eps), ("--attack", self.attack), ("--attack-n", self.attack_n)] if self.eps else []
        data: list[Flag] = [("--data", f"DIR/{name}"), ("--sample", self.sample.get(name))]
        return _command("segment", seed, out, *_networks(files), *data, *attack)


class PaperPlan(_Part):
    """All parts; one that is left out is not measured. The first sweep is the one of claim 2.

    ``weights``: a folder of networks trained on CIFAR-10, NAME-seedN.safetensors; by default the bundled ones.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    weights: Path | None = None
    sweep: tuple[SweepPart, ...] = ()
    transfer: TransferPart | None = None
    segment: SegmentPart | None = None

    @staticmethod
    def read(path: Path) -> PaperPlan:
        """The plan in a TOML file; folders are meant from its own. Every mistake is one line that names the file and the key."""
        document = read_plan(path)
        try:
            plan = PaperPlan.model_validate(document)
        except ValidationError as problem:
            key, said = first_mistake(problem)
            raise InputError(f"plan {path}: key {key!r}: {said.lower()}") from None
        with said_of(f"plan {path}"):
            require_unique("data", [part.data for part in plan.sweep])
        beside = path.parent
        sweeps = [part.model_copy(update={"weights": part.weights and beside / part.weights}) for part in plan.sweep]
        return plan.model_copy(update={"weights": plan.weights and beside / plan.weights, "sweep": tuple(sweeps)})

    def weights_for(self, part: SweepPart) -> Path | None:
        """The folder of a sweep's networks; None for the bundled ones."""
        return part.weights or (self.weights if part.data == TRAINED_ON else None)


@dataclass(frozen=True)
class Places:
    """Where to look: folders given by name, then ``root/NAME``, torchvision's files in ``root`` or in the cache."""

    root: Path | None = None
    given: Mapping[str, Path] = field(default_factory=dict)

    def find(self, name: str) -> DataPlace | None:
        """The place of a data set of the plan; None if it is not on this machine.

        Raises:
            InputError: a folder that was given by name does not exist.
        """
        if name in self.given:
            path = self.given[name]
            if not path.exists():
                raise InputError(f"--data {name}={path}: there is no such folder or file")
            return _downloaded(name, path) or DataPlace(str(path))
        for root in (self.root, None if self.root is None else self.root / name, default_root()):
            if root is not None and (found := _downloaded(name, root)) is not None:
                return found
        here = None if self.root is None else self.root / name
        return DataPlace(str(here)) if here is not None and _is_data(here) else None


def _downloaded(name: str, root: Path) -> DataPlace | None:
    return DataPlace(name, root) if name in PLACES and any(root.glob(PLACES[name])) else None


def _is_data(path: Path) -> bool:
    """Whether a folder holds Parquet files or folders of images."""
    return path.is_dir() and (any(path.glob("*.parquet")) or any(entry.is_dir() for entry in path.iterdir()))


def how_to_get(name: str) -> str:
    """One line for a data set that is not on this machine."""
    ways = {
        "cifar10": "`robustatt sweep --data cifar10 --download` fetches it",
        "stl10": "`robustatt transfer --data stl10 --download` fetches it for transfer; segment needs masks as well",
    }
    way = f"{ways[name]}, or " if name in ways else ""
    return f"no data: {way}say where it lies by `--data {name}=DIR`"


def parse_places(root: Path | None, given: list[str]) -> Places:
    """Places from ``--data-root`` and ``--data NAME=DIR``; InputError for another form."""
    folders: dict[str, Path] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise InputError(f"--data {text!r}: give a name of the plan and its folder, such as --data stl10=DIR")
        folders[name] = Path(path)
    return Places(root, folders)


def parts_of(plan: PaperPlan) -> dict[str, tuple[str, ...]]:
    """The data sets of each part of the plan."""
    return {
        "sweep": tuple(part.data for part in plan.sweep),
        "transfer": plan.transfer.data if plan.transfer else (),
        "segment": plan.segment.data if plan.segment else (),
    }


def names_of(plan: PaperPlan) -> list[str]:
    """All data sets of the plan."""
    return list(dict.fromkeys(name for names in parts_of(plan).values() for name in names))
