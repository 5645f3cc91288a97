"""The reference file of the gate: which examples were right at every radius, a bit each, and what was run.

Written by `robustatt check DIR --update FILE` and committed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.files import write_whole
from robustatt.results.outcomes import Outcomes, outcomes_by_curve
from robustatt.results.summary import Part, PlanInfo, Summary

SCHEMA = 1
KIND = "robustatt reference"
MAX_BYTES = 64 * 2**20
"""A reference larger than this, packed or unpacked, is taken for a broken one."""

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class ReferenceCurve:
    """One model under one attack as the reference holds it: right or wrong, ``(examples, radii)``."""

    model: str
    attack: str
    eps: tuple[str, ...]
    index: NDArray[np.int64]
    correct: Bits


@dataclass(frozen=True)
class Reference:
    """A reference file in memory: what was run, and the outcome of every example."""

    identity: Mapping[str, Any]
    made_by: Mapping[str, Any]
    curves: tuple[ReferenceCurve, ...]


def make_reference(records: pd.DataFrame, summary: Summary) -> Reference:
    """The reference of a run: its plan's identity and every outcome. InputError if it is incomplete."""
    curves = tuple(_curve(outcomes) for outcomes in outcomes_by_curve(records) if not summary.is_control(outcomes.attack))
    if not curves:
        raise InputError("a reference needs results: the run holds no records; run `robustatt sweep` first")
    origin = summary.provenance.as_dict()
    keep: dict[str, Any] = {name: origin[name] for name in ("command", "versions", "git") if name in origin}
    return Reference(identity(summary.plan), keep, curves)


def _curve(outcomes: Outcomes) -> ReferenceCurve:
    if not outcomes.present.all():
        gone = int((~outcomes.present).sum())
        raise InputError(f"{outcomes.model} under {outcomes.attack} lacks {gone} rows: resume the sweep")
    return ReferenceCurve(outcomes.model, outcomes.attack, outcomes.eps, outcomes.index, outcomes.correct)


def identity(plan: PlanInfo) -> dict[str, Any]:
    """What decides a plan's numbers: fingerprints of weights, data and recipes; radii; seed."""

    def table(entries: Iterable[Part], fields: Iterable[str]) -> dict[str, Any]:
        known = [entry.as_dict() for entry in entries]
        return {entry["name"]: {name: entry[name] for name in fields if name in entry} for entry in known}

    whole = plan.as_dict()
    data = plan.data.as_dict()
    described: dict[str, Any] = {name: data[name] for name in ("name", "split", "n", "fingerprint") if name in data}
    if "classes" in data:
        described["classes"] = len(data["classes"])
    return {
        "data": described,
        "models": table(plan.models, ["fingerprint"]),
        "attacks": table((entry for entry in plan.attacks if entry.category != "control"), ["norm", "fingerprint", "radii"]),
        "eps": sorted(plan.eps, key=parse_radius),
        **{name: whole[name] for name in ("seed", "evaluation", "semantics") if name in whole},
    }


def write_reference(path: Path, reference: Reference) -> Path:
    """Write a reference file, whole or not at all; the bits are packed, compressed and in base64.

    InputError if it cannot be written.
    """
    curves = [
        {
            "model": curve.model,
            "attack": curve.attack,
            "eps": list(curve.eps),
            "n": int(curve.index.size),
            "correct": [int(count) for count in curve.correct.sum(axis=0)],
            "index": _pack_index(curve.index),
            "outcomes": _pack(np.packbits(curve.correct.T).tobytes()),
        }
        for curve in reference.curves
    ]
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "identity": reference.identity,
        "made_by": reference.made_by,
        "curves": curves,
    }
    path = Path(path)
    write_whole(path, (json.dumps(document, indent=1, default=str) + "\n").encode())
    return path


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _pack_index(index: NDArray[np.int64]) -> Any:
    if index.size and np.array_equal(index, np.arange(index[0], index[0] + index.size)):
        return [int(index[0]), int(index[0] + index.size)]
    return _pack(index.astype("<i8").tobytes())


def read_reference(path: Path) -> Reference:
    """Read a reference file; InputError with one line if it is missing, broken or of another version."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is not a reference: larger than {MAX_BYTES // 2**20} MiB")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no reference {path}: `robustatt check DIR --update {path}` writes one") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a reference: broken JSON; restore the committed file") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path} is not a reference: write one with `robustatt check DIR --update {path}`")
    if document.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {document.get('schema')!r}; this version reads schema {SCHEMA}")
    try:
        curves = tuple(_unpack_curve(entry) for entry in document["curves"])
        made, plan = document["made_by"], document["identity"]
        if not isinstance(made, dict) or not curves:
            raise ValueError("no curves")
        _check_identity(plan)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        zlib.error,
        binascii.Error,
        InputError,
    ):
        raise InputError(f"{path} is damaged: a curve does not unpack; restore the committed file") from None
    return Reference(plan, made, curves)


def _check_identity(plan: Mapping[str, Any]) -> None:
    """Raise ValueError (or what reading it raises) unless it has the form that `identity` gives."""
    tables = [plan["data"], *plan["models"].values(), *plan["attacks"].values()]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(plan["eps"], list):
        raise ValueError("not an identity")
    for eps in plan["eps"]:
        parse_radius(eps)


def _unpack(text: str, size: int) -> bytes:
    """The bytes behind a packed text, refused unless they are exactly ``size``."""
    if size > MAX_BYTES:
        raise ValueError("too large")
    engine = zlib.decompressobj()
    content = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError("wrong length")
    return content


def _unpack_curve(entry: Mapping[str, Any]) -> ReferenceCurve:
    n, eps = int(entry["n"]), tuple(str(text) for text in entry["eps"])
    if n < 1 or not eps or [parse_radius(e) for e in eps] != sorted({parse_radius(e) for e in eps}):
        raise ValueError("no examples, or radii out of order")
    size = math.ceil(n * len(eps) / 8)
    packed = np.frombuffer(_unpack(entry["outcomes"], size), dtype=np.uint8)
    correct = np.unpackbits(packed, count=n * len(eps)).reshape(len(eps), n).T.astype(bool)
    if [int(count) for count in correct.sum(axis=0)] != list(entry["correct"]):
        raise ValueError("counts and outcomes disagree")
    place = entry["index"]
    if isinstance(place, list):
        index = np.arange(int(place[0]), int(place[1]), dtype=np.int64)
    else:
        index = np.frombuffer(_unpack(place, 8 * n), dtype="<i8").astype(np.int64)
    if index.size != n or np.unique(index).size != n:
        raise ValueError("index does not fit")
    return ReferenceCurve(str(entry["model"]), str(entry["attack"]), eps, index, correct)
