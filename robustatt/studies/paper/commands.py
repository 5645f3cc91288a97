"""The command line that measures each part by itself, with DIR for the folder of the data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from robustatt.studies.paper.plan import DataPlace, FinePart, SegmentPart, SweepPart, TransferPart


def _line(command: str, *flags: tuple[str, object] | None) -> str:
    words = ["robustatt", command]
    for entry in flags:
        if entry is not None and entry[1] is not None:
            words += [entry[0], str(entry[1])]
    return shlex.join(words)


def _each(flag: str, values: Iterable[object]) -> list[tuple[str, object]]:
    return [(flag, value) for value in values]


def where(name: str, place: DataPlace) -> str:
    """A data set as the command is given it: torchvision's by name, others as a folder in DIR."""
    return name if place.root is not None else f"DIR/{name}"


def _root(places: Iterable[DataPlace]) -> tuple[str, object] | None:
    return ("--data-root", "DIR") if any(place.root is not None for place in places) else None


def sweep(part: SweepPart, place: DataPlace, models: Sequence[str], out: Path, seed: int) -> str:
    return _line(
        "sweep", ("--data", where(part.data, place)), _root([place]), *_each("--model", models),
        *_each("--attack", part.attacks), ("--eps", part.eps), ("-n", part.n), ("--seed", seed), ("--out", out.as_posix()),
    )  # fmt: skip


def fine(part: FinePart, place: DataPlace, files: Sequence[tuple[str, str]], side: int, out: Path, seed: int) -> str:
    return _line(
        "sweep", ("--data", where(part.data, place)), ("--input-size", side), *_each("--model", [name for name, _ in files]),
        *_each("--weights", [file for _, file in files]), *_each("--attack", part.attacks), ("--eps", part.eps),
        ("-n", part.n), ("--seed", seed), ("--out", out.as_posix()),
    )  # fmt: skip


def transfer(part: TransferPart, places: dict[str, DataPlace], models: Sequence[str], out: Path, seed: int) -> str:
    return _line(
        "transfer", *_each("--model", models), *_each("--data", [where(name, place) for name, place in places.items()]),
        _root(places.values()), ("--folds", part.folds), ("--sample", part.sample), ("--seed", seed), ("--out", out.as_posix()),
    )  # fmt: skip


def segment(part: SegmentPart, name: str, models: Sequence[str], out: Path, seed: int) -> str:
    attack = [("--eps", part.eps), ("--attack", part.attack), ("--attack-n", part.attack_n)] if part.eps else []
    return _line(
        "segment", *_each("--model", models), ("--data", f"DIR/{name}"), ("--sample", part.sample), *attack,
        ("--seed", seed), ("--out", out.as_posix()),
    )  # fmt: skip
