"""The reference file of the gate: which examples were right at every radius, a bit each, and what was run.

Written by `robustatt check DIR --update FILE` and committed.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from robustatt.attack.recipe import UNGATED
from robustatt.eps import parse_radius
from robustatt.errors import InputError
from robustatt.files import write_whole
from robustatt.results.outcomes import Outcomes, outcomes_by_curve
from robustatt.results.part import Part, Radius
from robustatt.results.plan_info import PlanInfo
from robustatt.results.summary import Summary

SCHEMA = 1
KIND = "robustatt reference"
MAX_BYTES = 64 * 2**20
"""A reference larger than this, packed or unpacked, is taken for a broken one."""

Bits = NDArray[np.bool_]
P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class ReferenceCurve:
    """One model under one attack as the reference holds it: right or wrong, ``(examples, radii)``."""

    model: str
    attack: str
    eps: tuple[str, ...]
    index: NDArray[np.int64]
    correct: Bits

    def only(self, index: NDArray[np.int64]) -> ReferenceCurve:
        """The same of some examples, in the reference's order; those that it does not have are left out."""
        chosen = np.isin(self.index, index)
        return replace(self, index=self.index[chosen], correct=self.correct[chosen])


class DataIdentity(Part):
    """The data set; `classes` is their number."""

    name: str | None = None
    split: str | None = None
    n: int | None = None
    fingerprint: str | None = None
    classes: int | None = None


class ModelIdentity(Part):
    """The weights of a model."""

    fingerprint: str | None = None


class AttackIdentity(Part):
    """An attack; `radii` only where they are not those of the plan."""

    norm: str | None = None
    fingerprint: str | None = None
    radii: list[Radius] | None = None


class Identity(Part):
    """What decides a plan's numbers: fingerprints of weights, data and recipes; radii; seed."""

    data: DataIdentity
    models: dict[str, ModelIdentity]
    attacks: dict[str, AttackIdentity]
    eps: list[Radius]
    seed: int | None = None
    evaluation: str | None = None
    semantics: int | None = None


class MadeBy(Part):
    """The command that made a reference, and with what."""

    command: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    git: str = ""


@dataclass(frozen=True)
class Reference:
    """A reference file in memory: what was run, and the outcome of every example."""

    identity: Identity
    made_by: MadeBy
    curves: tuple[ReferenceCurve, ...]


def make_reference(records: pd.DataFrame, summary: Summary) -> Reference:
    """The reference of a run: its plan's identity and every outcome. InputError if it is incomplete."""
    curves = tuple(_curve(outcomes) for outcomes in outcomes_by_curve(records) if summary.is_gated(outcomes.attack))
    if not curves:
        raise InputError("a reference needs results: the run holds no records; run `robustatt sweep` first")
    return Reference(identity(summary.plan), _subset(MadeBy, summary.provenance.as_dict()), curves)


def _curve(outcomes: Outcomes) -> ReferenceCurve:
    if not outcomes.present.all():
        gone = int((~outcomes.present).sum())
        raise InputError(f"{outcomes.model} under {outcomes.attack} lacks {gone} rows: resume the sweep")
    return ReferenceCurve(outcomes.model, outcomes.attack, outcomes.eps, outcomes.index, outcomes.correct)


def identity(plan: PlanInfo) -> Identity:
    """The identity of a plan; controls are left out, since no curve of theirs is kept."""
    given = plan.as_dict()
    classes = {"classes": len(plan.data.classes)} if "classes" in plan.data.model_fields_set else {}
    whole = {"fingerprint": plan.rounds.whole} if plan.rounds is not None and plan.rounds.whole else {}  # whatever their order
    return _subset(
        Identity,
        given
        | {
            "data": _subset(DataIdentity, plan.data.as_dict() | classes | whole),
            "models": {entry.name: _subset(ModelIdentity, entry.as_dict()) for entry in plan.models},
            "attacks": {
                entry.name: _subset(AttackIdentity, entry.as_dict()) for entry in plan.attacks if entry.category not in UNGATED
            },
            "eps": sorted(plan.eps, key=parse_radius),
        },
    )


def _subset(kind: type[P], fields: Mapping[str, object]) -> P:
    """A part made of those fields that it declares."""
    return kind.model_validate({name: fields[name] for name in kind.model_fields if name in fields})


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
        "identity": reference.identity.as_dict(),
        "made_by": reference.made_by.as_dict(),
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
        if not curves:
            raise ValueError("no curves")
        made, plan = MadeBy.model_validate(document["made_by"]), Identity.model_validate(document["identity"])
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


def _unpack(text: str, size: int) -> bytes:
    """The bytes behind a packed text, refused unless they are exactly ``size``."""
    if size > MAX_BYTES:
        raise ValueError("too large")
    engine = zlib.decompressobj()
    content = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError("wrong length")
    return content


def _unpack_curve(entry: Any) -> ReferenceCurve:
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
