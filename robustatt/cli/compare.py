"""`robustatt compare`: at which radii do two models really differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustatt.cli._results import read_results
from robustatt.cli._terminal import counted, print_table, warn
from robustatt.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from robustatt.results.outcomes import Outcomes
    from robustatt.results.summary import Difference, Summary

SIGNIFICANT = 0.05


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="DIR[:MODEL]...", help="The folder a sweep wrote; or two models, of one sweep or of two."),
    ],
    a: Annotated[str | None, typer.Option("--a", help="One model.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="The model to compare it with.")] = None,
) -> None:
    """Say at which eps two models really differ.

    Of one sweep, `robustatt compare DIR --a MODEL --b MODEL`, or of two, `robustatt compare DIR:MODEL DIR2:MODEL`.
    """
    if len(runs) > 2:
        raise InputError(f"compare: {len(runs)} folders: give one with --a and --b, or two models as DIR:MODEL DIR2:MODEL")
    (folder_a, label_a), (folder_b, label_b) = _split(runs[0]), _split(runs[-1])
    if len(runs) == 1 and label_a is not None:
        raise InputError(f"compare: {runs[0]} is one model: give another, such as {folder_a}:MODEL")
    for flag, given, label in (("--a", a, label_a), ("--b", b, label_b)):
        if given is not None and label is not None:
            raise InputError(f"compare: the model is given twice, by {flag} {given} and as :{label}: give it once")
    read = {folder: read_results(folder) for folder in dict.fromkeys([folder_a, folder_b])}
    first = _model(folder_a, read[folder_a][1], a or label_a, "--a", len(runs))
    second = _model(folder_b, read[folder_b][1], b or label_b, "--b", len(runs))
    apart = folder_a != folder_b
    if apart:
        _require_same_data(read[folder_a][1], read[folder_b][1], folder_a, folder_b)
    rows = _rows(_outcomes(read[folder_a][0], first), _outcomes(read[folder_b][0], second), f"{folder_a} and {folder_b}")
    same = apart and first == second
    names = [f"{label} of {folder}" if same else label for label, folder in ((first, folder_a), (second, folder_b))]
    print_table(
        ["attack", "eps", f"{names[0]} minus {names[1]}", "95 % interval", "p (McNemar)", "p (Holm)", "real"],
        [
            [row.attack, row.eps, f"{100 * row.difference:+.1f}", f"[{100 * row.ci_low:+.1f}, {100 * row.ci_high:+.1f}]",
             f"{row.p:.2g}", f"{row.p_holm:.2g}", "yes" if row.p_holm < SIGNIFICANT else "no"]
            for row in rows
        ],
    )  # fmt: skip
    print("Points of accuracy on the same images; real: exact McNemar test below 0.05 after Holm's correction over the curve.")
    print(_power(rows))
    if rows:
        print(conclusion(rows, *names))


def _split(text: str) -> tuple[Path, str | None]:
    """Folder and model of ``DIR:MODEL``, either of which may hold colons itself; no model if there is only a folder."""
    if ":" not in text or Path(text).is_dir():
        return Path(text), None
    ends = [place for place, sign in enumerate(text) if sign == ":"]
    end = next((place for place in ends if Path(text[:place] or ".").is_dir()), ends[-1])
    return Path(text[:end] or "."), text[end + 1 :]


def _model(folder: Path, summary: Summary, label: str | None, flag: str, runs: int) -> str:
    """The model that is meant in a sweep: it may be left out where the folder's sweep had only one."""
    known = [entry.name for entry in summary.plan.models]
    if label is None and runs == 2 and len(known) == 1:
        return known[0]
    if label is None:
        how = f"{flag} MODEL" if runs == 1 else f"{folder}:MODEL"
        raise InputError(f"compare: which model of {folder}? Give {how}. Known: {', '.join(known)}")
    if label not in known:
        raise InputError(f"model {label!r} is not in {folder}: {did_you_mean(label, known)}")
    return label


def _outcomes(records: Any, model: str) -> dict[str, Outcomes]:
    from robustatt.results.outcomes import outcomes_by_curve

    return {outcomes.attack: outcomes for outcomes in outcomes_by_curve(records[records["model"] == model])}


def _rows(first: Mapping[str, Outcomes], second: Mapping[str, Outcomes], where: str) -> list[Difference]:
    """The paired differences under each attack that both have; InputError if their images are not the same."""
    import numpy as np

    from robustatt.results.aggregate import compare_outcomes

    rows: list[Difference] = []
    for attack, outcomes in first.items():
        other = second.get(attack)
        if other is None:
            continue
        mine, theirs = outcomes.align(other)
        if not np.array_equal(outcomes.label[mine], other.label[theirs]):
            raise InputError(f"compare: {where} are not of the same images: labels differ")
        rows += compare_outcomes(outcomes, other)
    return rows


def _require_same_data(first: Summary, second: Summary, a: Path, b: Path) -> None:
    """Refuse two sweeps on as many but other images; say where data or attacks of one name are not the same."""
    from robustatt.results.gate import plan_changes
    from robustatt.results.reference import identity

    was, now = identity(first.plan), identity(second.plan)
    data = [was.data.fingerprint, now.data.fingerprint]
    if None not in data and data[0] != data[1] and was.data.n == now.data.n:
        raise InputError(f"compare: {a} and {b} are not of the same images: the fingerprints of their data differ")
    attacks = [name for name in was.attacks if name in now.attacks]
    was, now = (
        plan.model_copy(update={"models": {}, "eps": [], "attacks": {name: plan.attacks[name] for name in attacks}})
        for plan in (was, now)
    )
    for change in plan_changes(was, now):
        if not change.field.endswith("(radii)"):
            warn(f"{change.field}: {change.reference} in {a}, {change.run} in {b}")


def _power(rows: Sequence[Difference]) -> str:
    """What the examples can show: the least difference found in four runs of five, wherever the models disagree most."""
    from robustatt.results import statistics

    if not rows:
        return "The two models have no attack, radius and image in common."
    n = min(row.n for row in rows)
    disagree = max((row.only_model + row.only_baseline) / row.n for row in rows)
    least = statistics.detectable_difference(n, disagree, SIGNIFICANT / len(rows)) if disagree else float("nan")
    if math.isnan(least):
        return f"The models disagree on so few of {n} examples that no difference could be shown: take more."
    return (
        f"With {n} examples a true difference of {100 * least:.1f} points is detectable (in four runs of five, "
        f"where the models disagree on {disagree:.1%} of them)."
    )


def conclusion(rows: Sequence[Difference], first: str, second: str) -> str:
    """The result in one sentence: where which model is more accurate, by how much, and where nothing is shown."""
    real = [row for row in rows if row.p_holm < SIGNIFICANT]
    parts = []
    for better, worse, sign in ((first, second, 1), (second, first, -1)):
        found = [row for row in real if sign * row.difference > 0]
        if found:
            most = 100 * max(abs(row.difference) for row in found)
            parts.append(
                f"{better} is more accurate than {worse} at {len(found)} of {len(rows)} points ({_places(found, rows)}), "
                f"by up to {most:.1f} points of accuracy"
            )
    if not parts:
        return f"Result: no difference between {first} and {second} is shown at any of {counted(len(rows), 'point')}."
    rest = len(rows) - len(real)
    parts += [f"at the other {rest} no difference is shown" if rest > 1 else "at the other one none is shown"] if rest else []
    return f"Result: {'; '.join(parts)}."


def _places(found: Iterable[Difference], rows: Sequence[Difference]) -> str:
    """The radii of some rows by attack; neighbours of the grid as a range."""
    chosen = {(row.attack, row.eps) for row in found}
    texts = []
    for attack in dict.fromkeys(row.attack for row in rows):
        ranges: list[list[str]] = [[]]
        for row in rows:
            if row.attack == attack:
                if (attack, row.eps) in chosen:
                    ranges[-1].append(row.eps)
                elif ranges[-1]:
                    ranges.append([])
        spans = [part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in ranges if part]
        texts += [f"{attack} at {', '.join(spans)}"] if spans else []
    return "; ".join(texts)
