"""What `robustatt paper` is to measure: a TOML file, checked, with the command that measures each part by itself.

And where each data set lies on this machine; commands say DIR for the folder of the data.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustatt.data.torchvision import PLACES, default_root
from robustatt.errors import InputError, first_mistake
from robustatt.plan import read_plan

PARTS = ("sweep", "fine_grained", "transfer", "segment")


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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SweepPart(_Part):
    """Attacked images of one data set. ``models``: by default all whose weights there are; ``n``: the first so many."""

    data: str
    models: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ("fgsm",)
    eps: str = "1,2,4,8,16"
    n: int | None = Field(default=None, ge=1)

    def command(self, place: DataPlace, models: Sequence[str], out: Path, seed: int) -> str:
        """For networks with bundled weights."""
        return self._line(place, [_root([place]), *_each("--model", models)], out, seed)

    def _line(self, place: DataPlace, models: Sequence[Flag], out: Path, seed: int) -> str:
        attacks = [*_each("--attack", self.attacks), ("--eps", self.eps), ("-n", self.n)]
        return _command("sweep", seed, out, ("--data", _where(self.data, place)), *models, *attacks)


class FinePart(SweepPart):
    """Fine-grained classes. ``weights``: a folder of NAME.safetensors; by default the bundled ones of this data set."""

    weights: Path | None = None

    def fine_command(self, place: DataPlace, files: Mapping[str, str], side: int, out: Path, seed: int) -> str:
        """For weights files by network, on images of that side."""
        models = [("--input-size", side), *_each("--model", files), *_each("--weights", files.values())]
        return self._line(place, models, out, seed)


class TransferPart(_Part):
    """Fixed features on other data sets; ``sample``: so many images of each part of a set."""

    data: tuple[str, ...]
    models: tuple[str, ...] = ()
    folds: int = Field(default=5, ge=2)
    sample: int | None = Field(default=None, ge=1)

    def command(self, places: Mapping[str, DataPlace], models: Sequence[str], out: Path, seed: int) -> str:
        """For networks with bundled weights on the data sets that are there."""
        data = _each("--data", [_where(name, place) for name, place in places.items()])
        how: list[Flag] = [_root(places.values()), ("--folds", self.folds), ("--sample", self.sample)]
        return _command("transfer", seed, out, *_each("--model", models), *data, *how)


class SegmentPart(_Part):
    """Maps against masks; ``sample``: so many images of each set, of which the first ``attack_n`` are attacked too."""

    data: tuple[str, ...]
    models: tuple[str, ...] = ()
    sample: int | None = Field(default=None, ge=5)
    eps: str | None = None
    attack: str = "pgd"
    attack_n: int | None = Field(default=None, ge=1)

    def command(self, name: str, models: Sequence[str], out: Path, seed: int) -> str:
        """For networks with bundled weights on one data set."""
        attack: list[Flag] = [("--eps", self.eps), ("--attack", self.attack), ("--attack-n", self.attack_n)] if self.eps else []
        data: list[Flag] = [("--data", f"DIR/{name}"), ("--sample", self.sample)]
        return _command("segment", seed, out, *_each("--model", models), *data, *attack)


class PaperPlan(_Part):
    """All parts; one that is left out is not measured."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    sweep: SweepPart | None = None
    fine_grained: FinePart | None = None
    transfer: TransferPart | None = None
    segment: SegmentPart | None = None

    @staticmethod
    def read(path: Path) -> PaperPlan:
        """The plan in a TOML file; every mistake is one line that names the file and the key."""
        document = read_plan(path)
        try:
            return PaperPlan.model_validate(document)
        except ValidationError as problem:
            key, said = first_mistake(problem)
            raise InputError(f"plan {path}: key {key!r}: {said.lower()}") from None


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
    single = {"sweep": plan.sweep, "fine_grained": plan.fine_grained}
    several = {"transfer": plan.transfer, "segment": plan.segment}
    return {
        **{part: (entry.data,) for part, entry in single.items() if entry is not None},
        **{part: entry.data for part, entry in several.items() if entry is not None},
    }


def names_of(plan: PaperPlan) -> list[str]:
    """All data sets of the plan."""
    return list(dict.fromkeys(name for names in parts_of(plan).values() for name in names))
