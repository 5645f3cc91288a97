"""The gate: a run against a committed reference, example by example, so that CI fails on a real loss only.

A curve point is a regression if the exact McNemar test on the examples that changed sides says so, after Holm's
correction over the points that can be tested at all, and if accuracy fell by more than a practical floor. Models are
known by their label: other weights under it are what a gate is for. Runs of another plan are refused, with the field
that differs. docs/gate.md has the gate's error rates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.eps import CLEAN, parse_radius
from robustatt.errors import InputError, did_you_mean
from robustatt.results import statistics
from robustatt.results.early_gate import Look
from robustatt.results.outcomes import Outcomes, curves_of
from robustatt.results.part import Part
from robustatt.results.plan_info import PlanInfo
from robustatt.results.reference import DataIdentity, Identity, Reference, ReferenceCurve, identity
from robustatt.results.summary import Summary

ALLOWABLE = ("data", "attack", "eps", "seed", "evaluation")

Verdict = Literal["regression", "improvement", "noise", "same"]
Overall = Literal["regression", "improvement", "noise", "same", "changed plan", "undecided"]


@dataclass(frozen=True)
class PointCheck:
    """One curve point, run against reference; shares in [0, 1], ``change`` is run minus reference.

    ``p`` is that of the exact McNemar test in the direction of the change, ``p_holm`` after Holm's correction.
    """

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
    """What the gate found; ``exit_code`` is 0 passed, 1 regression, 2 the plan changed, 3 not decided yet.

    ``look`` is set where the run has met some of the reference's examples only (see `robustatt.results.early_gate`). ``changes`` stood in the way of a comparison; ``noted`` did not: other weights, and what the user allowed.
    ``tested`` counts the points that Holm's correction was made for.
    """

    verdict: Overall
    points: tuple[PointCheck, ...]
    changes: tuple[Change, ...]
    noted: tuple[Change, ...]
    max_drop: float
    alpha: float
    tested: int = 0
    look: Look | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of ``robustatt check``."""
        return {"regression": 1, "changed plan": 2, "undecided": 3}.get(self.verdict, 0)

    def of(self, verdict: Verdict) -> list[PointCheck]:
        """The points with one verdict, largest change first."""
        return sorted((p for p in self.points if p.verdict == verdict), key=lambda p: -abs(p.change))

    @property
    def least(self) -> int:
        """How many examples a point must lose, with none gained, before it can be a regression at all."""
        significant = math.ceil(-math.log2(self.alpha))
        return max(significant, math.floor(self.max_drop * self.points[0].n / 100) + 1)

    @property
    def headline(self) -> str:
        """The result in one line."""
        if self.verdict == "changed plan":
            return f"not comparable: {self.changes[0]}" + _and_more(len(self.changes) - 1)
        if self.look is not None:
            said = {"regression": "regression", "undecided": "no verdict yet"}.get(self.verdict, "passed")
            lowest = min(self.points, key=lambda p: p.change)
            drop = f"largest drop: {point_text(lowest)}" if lowest.change < 0 else "no point is lower than in the reference"
            return f"{said} after {self.look.done:,} of {self.look.of:,} examples; {drop}"
        if self.verdict in ("regression", "improvement"):
            worst = self.of(self.verdict)
            return f"{self.verdict}: {point_text(worst[0])}" + _and_more(len(worst) - 1)
        if self.verdict == "noise":
            flips = max(p.lost + p.gained for p in self.points)
            lowest = min(self.points, key=lambda p: p.change)
            drop = f"; largest drop: {point_text(lowest)}" if lowest.change < 0 else ""
            return f"passed: at most {flips} of {lowest.n} examples changed sides, within noise{drop}"
        return f"passed: every outcome is as in the reference ({len(self.points)} points)"


def _and_more(count: int) -> str:
    return f", and {count} more" if count > 0 else ""


def point_text(p: PointCheck) -> str:
    """One point in words: where, from what to what, on how many flips."""
    return (
        f"{p.model} under {p.attack} at {p.eps}: {100 * p.reference:.1f} % to {100 * p.run:.1f} % "
        f"({100 * p.change:+.1f} points, {p.lost} lost, {p.gained} gained, p = {p.p_holm:.2g})"
    )


# The check ------------------------------------------------------------------------------------------------


def check(
    records: pd.DataFrame,
    summary: Summary,
    reference: Reference,
    max_drop: float = 1.0,
    alpha: float = 0.01,
    allow: Collection[str] = (),
    same_weights: bool = False,
) -> CheckResult:
    """Compare a run with a reference, example by example.

    A point is a regression if accuracy fell by more than ``max_drop`` points and Holm's adjusted p-value of
    the exact McNemar test, over all points of all curves that can be tested, is at most ``alpha``; an improvement
    is the mirror image. Everything else is noise. A run of another plan is not compared, except in the fields
    named in ``allow`` (of `ALLOWABLE`). Other weights under the same label are compared and noted, unless
    ``same_weights`` asks that they be those of the reference.
    """
    for name in allow:
        if name not in ALLOWABLE:
            raise InputError(f"--allow {name!r} is not a field of a plan: {did_you_mean(name, ALLOWABLE)}")
    if not 0 < alpha < 1 or not 0 <= max_drop <= 100:
        raise InputError("alpha must lie between 0 and 1, max-drop between 0 and 100 points")
    compared = {*allow} if same_weights else {"weights", *allow}
    changes = plan_changes(reference.identity, whole_identity(summary.plan))
    noted = tuple(change for change in changes if change.kind in compared)
    refused = [change for change in changes if change.kind not in compared]
    found, look = curves_of(records), Look.at(summary.plan)
    pairs: list[tuple[ReferenceCurve, Outcomes]] = []
    for curve in reference.curves:
        outcomes = found.get((curve.model, curve.attack))
        if look is not None and outcomes is not None:
            curve = curve.only(outcomes.index)
        if outcomes is not None and _same_examples(curve, outcomes):
            pairs.append((curve, outcomes))
        elif not refused:
            refused.append(_lacking(curve, outcomes))
    if refused:
        return CheckResult("changed plan", (), tuple(refused), noted, max_drop, alpha)
    points = [point for curve in _counts(pairs) for point in curve]
    lost, gained = (np.array([getattr(point, side) for point in points]) for side in ("lost", "gained"))
    level = alpha if look is None else look.alarm_level(alpha)
    tested = testable(lost + gained, level)
    judged = _judge(points, tested, max_drop, level)
    verdict = _overall(judged)
    if look is not None and verdict != "regression" and not look.passes(lost, gained, max_drop, alpha).all():
        verdict = "undecided"
    return CheckResult(verdict, judged, (), noted, max_drop, alpha, int(tested.sum()), look)


def whole_identity(plan: PlanInfo) -> Identity:
    """The identity of a plan; of a sweep in rounds as if all examples were done."""
    found = identity(plan)
    if plan.rounds is None:
        return found
    return found.model_copy(update={"data": found.data.model_copy(update={"n": plan.rounds.of})})


def plan_changes(was: Identity, now: Identity) -> list[Change]:
    """Every field in which two identities differ; models and attacks that only the run has are not changes."""
    changes = _data_changes(was.data, now.data)
    changes += _table_changes("weights", "model", was.models, now.models)
    changes += _table_changes("attack", "attack", was.attacks, now.attacks)
    new_eps = {parse_radius(eps) for eps in now.eps}
    gone = [eps for eps in was.eps if parse_radius(eps) not in new_eps]
    if gone:
        changes.append(Change("eps", "eps", ", ".join(gone), "no such radius"))
    for name, kind in (("seed", "seed"), ("evaluation", "evaluation"), ("semantics", "evaluation")):
        then, since = getattr(was, name), getattr(now, name)
        if then != since:
            changes.append(Change(kind, name, str(then), str(since)))
    return changes


def _table_changes(kind: str, word: str, was: Mapping[str, Part], now: Mapping[str, Part]) -> list[Change]:
    changes: list[Change] = []
    for name, entry in was.items():
        if name not in now:
            changes.append(Change("missing", f"{word} {name}", "it", "nothing of that name"))
        else:
            label = f"weights of {name}" if kind == "weights" else name
            changes += _differences(kind, label, entry.as_dict(), now[name].as_dict())
    return changes


def _data_changes(was: DataIdentity, now: DataIdentity) -> list[Change]:
    """The same images and labels are the same data, whatever the folder they were read from is called."""
    same = was.fingerprint is not None and was.fingerprint == now.fingerprint
    kept = {"n", "classes"} if same else was.model_fields_set
    then, since = ({name: value for name, value in entry.as_dict().items() if name in kept} for entry in (was, now))
    return _differences("data", "data", then, since)


def _differences(kind: str, label: str, was: Mapping[str, object], now: Mapping[str, object]) -> list[Change]:
    names = [name for name in dict.fromkeys([*was, *now]) if was.get(name) != now.get(name)]
    return [Change(kind, f"{label} ({name})", _short(was.get(name)), _short(now.get(name))) for name in names]


def _short(value: object) -> str:
    """A text short enough for a table: the end of a path, the beginning of anything else."""
    text = "none" if value is None else str(value)
    if len(text) <= 24:
        return text
    return f"…{text[-23:]}" if "/" in text else f"{text[:16]}…"


def _same_examples(curve: ReferenceCurve, outcomes: Outcomes) -> bool:
    return (
        set(curve.eps) <= set(outcomes.eps)
        and np.array_equal(np.sort(curve.index), outcomes.index)
        and bool(outcomes.present[:, [outcomes.eps.index(eps) for eps in curve.eps]].all())
    )


def _lacking(curve: ReferenceCurve, outcomes: Outcomes | None) -> Change:
    where = f"records of {curve.model} under {curve.attack}"
    wanted = f"{curve.index.size} examples at {len(curve.eps)} radii"
    if outcomes is None:
        return Change("incomplete", where, wanted, "none")
    whole = int(outcomes.present.all(axis=1).sum())
    kind = "incomplete" if whole < outcomes.index.size else "missing"
    return Change(kind, where, wanted, f"{whole} complete at {len(outcomes.eps)} radii")


def _counts(pairs: list[tuple[ReferenceCurve, Outcomes]]) -> Iterable[list[PointCheck]]:
    """Counts of every point; the clean point, the same under every attack, once for each model."""
    seen: set[str] = set()
    for curve, outcomes in pairs:
        order = np.argsort(curve.index)
        now = outcomes.correct
        rows = []
        for column, eps in enumerate(curve.eps):
            if eps == CLEAN and curve.model in seen:
                continue
            before, after = curve.correct[order, column], now[:, outcomes.eps.index(eps)]
            lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
            p = float(statistics.mcnemar_one_sided(max(lost, gained), min(lost, gained)))
            attack = "no attack" if eps == CLEAN else curve.attack
            share = (float(before.mean()), float(after.mean()))
            rows.append(PointCheck(curve.model, attack, eps, before.size, *share, lost, gained, p, 1.0, "same"))
        seen.add(curve.model)
        yield rows


def testable(flips: NDArray[np.int64], alpha: float) -> NDArray[np.bool_]:
    """Which points can be significant at all, given how many examples changed sides at each: ``(points,)``.

    If all of d flips went one way the one-sided p-value were 2^-d. Where not even that is enough, a point can raise
    no alarm and is not counted by Holm's correction (Tarone 1990; Hommel & Krummenauer 1998). The choice looks at
    the number of flips alone, never at their direction, so the error rate stays at most ``alpha``.
    """
    least = 0.5 ** flips.astype(np.float64)
    for count in range(1, flips.size + 1):
        able: NDArray[np.bool_] = least <= alpha / count
        if able.sum() <= count:
            return able
    return np.ones(flips.size, dtype=bool)


def adjust(lost: NDArray[np.int64], gained: NDArray[np.int64], tested: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each point's p-value in the direction of its change after Holm's correction, ``(points,)``.

    Losses and gains are a family each: the chance of any false regression is at most alpha, and so is that of any
    false improvement. A point that cannot be tested has 1.
    """
    adjusted = np.ones(lost.size)
    for mine, other in ((lost, gained), (gained, lost)):
        family = statistics.holm(statistics.mcnemar_one_sided(mine[tested], other[tested]))
        adjusted[tested] = np.where(mine[tested] > other[tested], family, adjusted[tested])
    return adjusted


def _judge(points: list[PointCheck], tested: NDArray[np.bool_], max_drop: float, alpha: float) -> tuple[PointCheck, ...]:
    lost, gained = (np.array([getattr(point, side) for point in points]) for side in ("lost", "gained"))
    judged = []
    for point, p_holm in zip(points, adjust(lost, gained, tested).tolist(), strict=True):
        verdict = judge(point.lost, point.gained, point.n, p_holm, max_drop, alpha)
        judged.append(replace(point, p_holm=p_holm, verdict=verdict))
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
