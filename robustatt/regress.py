"""The gate: a run against a committed reference, example by example, so that CI fails on a real loss only.

A reference holds which examples were right at every radius, a bit each. A curve point is tested by the exact
McNemar test on the examples that changed sides, all points together are corrected by Holm, and a drop must
also be larger than a practical floor. Runs of another plan are refused, with the field that differs.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt import metrics
from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError
from robustatt.plan import write_atomically
from robustatt.summary import Grid, grids, is_control

SCHEMA = 1
KIND = "robustatt reference"
MOST_BYTES = 64 * 2**20
"""A reference larger than this, packed or unpacked, is taken for a broken one."""

ALLOWABLE = ("weights", "data", "attack", "eps", "seed", "evaluation")

Verdict = Literal["regression", "improvement", "noise", "same"]
Overall = Literal["regression", "improvement", "noise", "same", "changed plan"]
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
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
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class PointCheck:
    """One curve point, run against reference; shares in [0, 1], ``change`` is run minus reference."""

    model: str
    attack: str
    eps: str
    n: int
    reference: float
    run: float
    lost: int
    gained: int
    p: float
    p_holm: float
    verdict: Verdict

    @property
    def change(self) -> float:
        """Change of accuracy, as a share."""
        return (self.gained - self.lost) / self.n


@dataclass(frozen=True)
class Change:
    """A field of the plan that is not what the reference was made with."""

    kind: str
    field: str
    reference: str
    run: str

    def __str__(self) -> str:
        return f"{self.field}: the reference has {self.reference}, this run has {self.run}"


@dataclass(frozen=True)
class CheckResult:
    """What the gate found; ``exit_code`` is 0 passed, 1 regression, 2 the plan changed."""

    verdict: Overall
    points: tuple[PointCheck, ...]
    changes: tuple[Change, ...]
    allowed: tuple[Change, ...]
    max_drop: float
    alpha: float

    @property
    def exit_code(self) -> int:
        """The exit code of ``robustatt check``."""
        return {"regression": 1, "changed plan": 2}.get(self.verdict, 0)

    def of(self, verdict: Verdict) -> list[PointCheck]:
        """The points with one verdict, largest change first."""
        return sorted((p for p in self.points if p.verdict == verdict), key=lambda p: -abs(p.change))

    @property
    def headline(self) -> str:
        """The result in one line."""
        if self.verdict == "changed plan":
            return f"not comparable: {self.changes[0]}" + _and_more(len(self.changes) - 1)
        if self.verdict in ("regression", "improvement"):
            worst = self.of(self.verdict)
            return f"{self.verdict}: {point_text(worst[0])}" + _and_more(len(worst) - 1)
        if self.verdict == "noise":
            flips = max(p.lost + p.gained for p in self.points)
            return f"passed: at most {flips} of {self.points[0].n} examples changed sides, within noise"
        return f"passed: every outcome is as in the reference ({len(self.points)} points)"


def _and_more(count: int) -> str:
    return f", and {count} more" if count > 0 else ""


def point_text(p: PointCheck) -> str:
    """One point in words: where, from what to what, on how many flips."""
    return (
        f"{p.model} under {p.attack} at {p.eps}: {100 * p.reference:.1f} % to {100 * p.run:.1f} % "
        f"({100 * p.change:+.1f} points, {p.lost} lost, {p.gained} gained, p = {p.p_holm:.2g})"
    )


# Making a reference ---------------------------------------------------------------------------------------


def make_reference(records: pd.DataFrame, summary: Mapping[str, Any]) -> Reference:
    """The reference of a run: its plan's identity and every outcome. InputError if it is incomplete."""
    curves = tuple(_curve(grid) for grid in grids(records) if not is_control(grid.attack))
    if not curves:
        raise InputError("a reference needs results: the run holds no records; run `robustatt sweep` first")
    origin = summary.get("provenance") or {}
    keep = {name: origin[name] for name in ("command", "versions", "git") if name in origin}
    return Reference(identity(summary.get("plan") or {}), keep, curves)


def _curve(grid: Grid) -> Curve:
    if not grid.present.all():
        gone = int((~grid.present).sum())
        raise InputError(f"{grid.model} under {grid.attack} lacks {gone} rows: resume the sweep")
    return Curve(grid.model, grid.attack, grid.eps, grid.index, grid.correct)


def identity(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a plan's numbers: fingerprints of weights, data and recipes; radii; seed."""

    def table(key: str, fields: Iterable[str]) -> dict[str, Any]:
        entries = [e if isinstance(e, Mapping) else {"name": e} for e in plan.get(key) or []]
        return {str(e.get("name")): {name: e[name] for name in fields if name in e} for e in entries}

    data = plan.get("data")
    data = data if isinstance(data, Mapping) else {"name": data}
    return {
        "data": {name: data[name] for name in ("name", "split", "n", "fingerprint") if name in data},
        "models": table("models", ["fingerprint"]),
        "attacks": {k: v for k, v in table("attacks", ["norm", "fingerprint"]).items() if not is_control(k)},
        "eps": sorted((str(eps) for eps in plan.get("eps") or []), key=parse_radius),
        **{name: plan[name] for name in ("seed", "evaluation", "semantics") if name in plan},
    }


def write_reference(path: Path, reference: Reference) -> Path:
    """Write a reference file, whole or not at all; the bits are packed, compressed and in base64."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=1, default=str) + "\n").encode())
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
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is not a reference: larger than {MOST_BYTES // 2**20} MiB")
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
        if not isinstance(plan, dict) or not isinstance(made, dict) or not curves:
            raise ValueError("no curves")
    except (
        KeyError,
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
    if size > MOST_BYTES:
        raise ValueError("too large")
    engine = zlib.decompressobj()
    content = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError("wrong length")
    return content


def _unpack_curve(entry: Mapping[str, Any]) -> Curve:
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
    return Curve(str(entry["model"]), str(entry["attack"]), eps, index, correct)


# The check ------------------------------------------------------------------------------------------------


def check(
    records: pd.DataFrame,
    summary: Mapping[str, Any],
    reference: Reference,
    max_drop: float = 1.0,
    alpha: float = 0.01,
    allow: Collection[str] = (),
) -> CheckResult:
    """Compare a run with a reference, example by example.

    A point is a regression if accuracy fell by more than ``max_drop`` points and Holm's adjusted p-value of
    the exact McNemar test, over all points of all curves, is at most ``alpha``; an improvement is the
    mirror image. Everything else is noise. A run of another plan is not compared, except in the fields
    named in ``allow`` (of `ALLOWABLE`): ``weights`` is for a model that was trained again.
    """
    for name in allow:
        if name not in ALLOWABLE:
            raise InputError(f"--allow {name!r} is not a field of a plan; known: {', '.join(ALLOWABLE)}")
    if not 0 < alpha < 1 or not 0 <= max_drop <= 100:
        raise InputError("alpha must lie between 0 and 1, max-drop between 0 and 100 points")
    changes = plan_changes(reference.identity, identity(summary.get("plan") or {}))
    allowed = tuple(change for change in changes if change.kind in allow)
    refused = [change for change in changes if change.kind not in allow]
    found = {(grid.model, grid.attack): grid for grid in grids(records)}
    pairs: list[tuple[Curve, Grid]] = []
    for curve in reference.curves:
        grid = found.get((curve.model, curve.attack))
        if grid is not None and _same_examples(curve, grid):
            pairs.append((curve, grid))
        elif not refused:
            refused.append(_lacking(curve, grid))
    if refused:
        return CheckResult("changed plan", (), tuple(refused), allowed, max_drop, alpha)
    points = _judge([point for curve in _counts(pairs) for point in curve], max_drop, alpha)
    return CheckResult(_overall(points), points, (), allowed, max_drop, alpha)


def plan_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Every field in which two identities differ; models and attacks that only the run has are no change."""
    changes = _differences("data", "data", was.get("data"), now.get("data"))
    for key, kind, word in (("models", "weights", "model"), ("attacks", "attack", "attack")):
        old, new = was.get(key) or {}, now.get(key) or {}
        for name, fields in old.items():
            if name not in new:
                changes.append(Change("missing", f"{word} {name}", "it", "nothing of that name"))
                continue
            changes += _differences(kind, f"{kind} of {name}" if kind == "weights" else name, fields, new[name])
    old_eps, new_eps = was.get("eps") or [], {parse_radius(eps) for eps in now.get("eps") or []}
    gone = [eps for eps in old_eps if parse_radius(eps) not in new_eps]
    if gone:
        changes.append(Change("eps", "eps", ", ".join(gone), "no such radius"))
    for name, kind in (("seed", "seed"), ("evaluation", "evaluation"), ("semantics", "evaluation")):
        if was.get(name) != now.get(name):
            changes.append(Change(kind, name, str(was.get(name)), str(now.get(name))))
    return changes


def _differences(kind: str, label: str, was: Any, now: Any) -> list[Change]:
    was, now = dict(was or {}), dict(now or {})
    names = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
    return [Change(kind, f"{label} ({name})", _short(was.get(name)), _short(now.get(name))) for name in names]


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:16]}…"


def _same_examples(curve: Curve, grid: Grid) -> bool:
    return (
        set(curve.eps) <= set(grid.eps)
        and np.array_equal(np.sort(curve.index), grid.index)
        and bool(grid.present[:, [grid.eps.index(eps) for eps in curve.eps]].all())
    )


def _lacking(curve: Curve, grid: Grid | None) -> Change:
    where = f"records of {curve.model} under {curve.attack}"
    wanted = f"{curve.index.size} examples at {len(curve.eps)} radii"
    if grid is None:
        return Change("missing", where, wanted, "none")
    whole = int(grid.present.all(axis=1).sum())
    return Change("missing", where, wanted, f"{whole} complete at {len(grid.eps)} radii")


def _counts(pairs: list[tuple[Curve, Grid]]) -> Iterable[list[PointCheck]]:
    """Counts of every point; the clean point, the same under every attack, once for each model."""
    seen: set[str] = set()
    for curve, grid in pairs:
        order = np.argsort(curve.index)
        now = grid.correct
        rows = []
        for column, eps in enumerate(curve.eps):
            if eps == CLEAN and curve.model in seen:
                continue
            before, after = curve.correct[order, column], now[:, grid.eps.index(eps)]
            lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
            p = float(metrics.mcnemar_exact(lost, gained))
            attack = "no attack" if eps == CLEAN else curve.attack
            share = (float(before.mean()), float(after.mean()))
            rows.append(PointCheck(curve.model, attack, eps, before.size, *share, lost, gained, p, 1.0, "same"))
        seen.add(curve.model)
        yield rows


def _judge(points: list[PointCheck], max_drop: float, alpha: float) -> tuple[PointCheck, ...]:
    adjusted = metrics.holm([point.p for point in points])
    judged = []
    for point, p_holm in zip(points, adjusted, strict=True):
        verdict = judge(point.lost, point.gained, point.n, float(p_holm), max_drop, alpha)
        judged.append(PointCheck(**{**point.__dict__, "p_holm": float(p_holm), "verdict": verdict}))
    return tuple(judged)


def judge(lost: int, gained: int, n: int, p_holm: float, max_drop: float, alpha: float) -> Verdict:
    """The verdict on one point from its flips and its adjusted p-value."""
    if lost == gained == 0:
        return "same"
    if p_holm <= alpha and 100 * abs(gained - lost) > max_drop * n:
        return "regression" if lost > gained else "improvement"
    return "noise"


def _overall(points: Collection[PointCheck]) -> Overall:
    verdicts = {point.verdict for point in points}
    order: tuple[Verdict, ...] = ("regression", "improvement", "noise")
    return next((verdict for verdict in order if verdict in verdicts), "same")


# The gate's own error rates -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GateRates:
    """Share of simulated runs in which the gate called a regression."""

    alarms: float
    runs: int


def simulate_gate(
    drop: float,
    runs: int = 1000,
    examples: int = 1000,
    curves: int = 4,
    radii_hit: int = 16,
    churn: float = 0.01,
    max_drop: float = 1.0,
    alpha: float = 0.01,
    seed: int = 0,
) -> GateRates:
    """How often the gate raises an alarm when accuracy truly falls by ``drop`` points.

    A run is ``curves`` curves of 16 radii on the same examples. The drop strikes the first curve only, at
    its first ``radii_hit`` radii: the same unlucky examples at each of them. On top, a share ``churn`` of
    all outcomes flips at random, half of them each way and anew at every point (another machine, another
    batch size), which makes false alarms as likely as they can be. With ``drop`` 0 the rate is that of
    false alarms.
    """
    rng = np.random.default_rng(seed)
    accuracy = np.linspace(0.95, 0.25, 16)
    alarms = 0
    for _ in range(runs):
        right = (np.arange(examples)[:, None] < np.round(accuracy * examples))[:, None, :]
        flip = rng.random((examples, curves, 16), dtype=np.float32)
        lost = right & (flip < churn / 2 / accuracy)
        gained = ~right & (flip < churn / 2 / (1 - accuracy))
        unlucky = rng.random(examples)[:, None] < (drop / 100 / accuracy)[:radii_hit]
        lost[:, 0, :radii_hit] |= right[:, 0, :radii_hit] & unlucky
        down, up = lost.sum(axis=0).ravel(), gained.sum(axis=0).ravel()
        adjusted = metrics.holm(metrics.mcnemar_exact(down, up))
        points = zip(down.tolist(), up.tolist(), adjusted.tolist(), strict=True)
        alarms += any(judge(a, b, examples, p, max_drop, alpha) == "regression" for a, b, p in points)
    return GateRates(alarms / runs, runs)
