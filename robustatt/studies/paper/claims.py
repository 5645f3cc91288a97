"""From measurements to findings: the six claims of the paper; those of accuracy and fooling are judged in ``accuracy``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustatt.results.statistics import Estimate
from robustatt.studies.paper.accuracy import TRAINED, claim_1, claim_5, notes_1, notes_5, rivals
from robustatt.studies.paper.finding import ATTENTION, PLAIN, Claim, Finding, Measured, negative, points, share, verdict
from robustatt.studies.segment.result import HEADLINE, PRIOR, MapComparison, MapName

if TYPE_CHECKING:
    from robustatt.studies.transfer.result import DataSet, Transfer

PAPER_TRANSFER = "about +6 % on average of six sets"
ROUND = "{:.3f} ({:.3f} to {:.3f})"
TITLES = {
    1: "Attention classifies better than the plain network",
    2: "The last two or three levels beat one level, class activation maps and progressive attention",
    3: "Features generalise better to other data sets",
    4: "Attention maps segment the object better than other attention, saliency and proposals",
    5: "Attention is fooled less by FGSM at small radii, and the gap narrows",
    6: "Lower levels look at the surroundings, higher levels at the object",
}


def claims(measured: Measured, commands: Mapping[int, Sequence[str]]) -> list[Claim]:
    """All six, each with the commands its numbers come from."""
    found: dict[int, tuple[list[Finding], list[str]]] = {
        1: (claim_1(measured), notes_1(measured)),
        2: (rivals(measured.sweep), [f"By the same accuracies as claim 1. {TRAINED}"]),
        3: (_claim_3(measured), _notes_3(measured)),
        4: (_claim_4(measured), _notes_4(measured)),
        5: (claim_5(measured), notes_5(measured)),
        6: (_claim_6(measured), _notes_6(measured)),
    }
    return [
        Claim(number, TITLES[number], findings, notes, commands.get(number, ()))
        for number, (findings, notes) in found.items()
    ]


# Claim 3: features ----------------------------------------------------------------------------------------


def _claim_3(measured: Measured) -> list[Finding]:
    absent = [
        Finding(f"on {name}", why=measured.absent["transfer", name])
        for name in measured.transfer_names
        if ("transfer", name) in measured.absent
    ]
    result = measured.transfer
    if result is None:
        return absent or [Finding("features with a linear SVM", PAPER_TRANSFER, why="no data set in the plan")]
    means = [
        Finding(f"`{it.a}` against `{it.b}`, mean of {it.sets} sets", PAPER_TRANSFER, *_judged(it.difference, it.ci_low, it.ci_high))
        for it in result.averages
        if _is_claimed(it.a, it.b)
    ]  # fmt: skip
    each = [
        Finding(f"`{it.a}` against `{it.b}` on {it.data}", "", *_judged(it.difference, it.ci_low, it.ci_high, it.p_holm), why=f"p {it.p_holm:.2g} after Holm")
        for it in result.comparisons
        if _is_claimed(it.a, it.b)
    ]  # fmt: skip
    return [*means, *each, *absent]


def _is_claimed(a: str, b: str) -> bool:
    return a in ATTENTION and b == PLAIN


def _judged(value: float, low: float, high: float, p: float = 0.0) -> tuple[str, str]:
    change = Estimate(value, low, high)
    return f"accuracy {points(change)}", verdict(change, p)


def _notes_3(measured: Measured) -> list[str]:
    result = measured.transfer
    if result is None:
        return []
    widths = ", ".join(f"`{model.name}` {model.width}" for model in result.models)
    return [
        f"Numbers an image: {widths}. A longer vector is an advantage that the claim does not speak of.",
        *(_accuracies(result, data) for data in result.sets),
    ]


def _accuracies(result: Transfer, data: DataSet) -> str:
    scores = ", ".join(f"`{it.model}` {share(it.right, it.n)}" for it in result.scores if it.data == data.name)
    return f"On {data.name}, {data.n:,} images, {data.protocol}: {scores}; the largest class {100 * data.floor:.1f} %."


# Claims 4 and 6: maps -------------------------------------------------------------------------------------


def _claim_4(measured: Measured) -> list[Finding]:
    overlaps = (
        overlap(entry, name)
        for name, summary in measured.segments.items()
        for entry in summary.comparisons
        if entry.measure == HEADLINE
    )
    return [*_without_maps(measured), *(finding for finding in overlaps if finding is not None)]


def _without_maps(measured: Measured) -> list[Finding]:
    return [
        Finding(f"on {name}", why=measured.absent.get(("segment", name), "not measured"))
        for name in measured.segment_names
        if name not in measured.segments
    ]


def overlap(entry: MapComparison, data: str) -> Finding | None:
    """Attention against something else, whichever way round they were compared; None for any other pair."""
    a, b, change = entry.a, entry.b, entry.estimate
    if a.method == PRIOR or (b.model in ATTENTION and a.model not in ATTENTION):
        a, b, change = b, a, negative(change)
    rival = b.model not in ATTENTION and not b.model.endswith("_adv")
    if a.model not in ATTENTION or not (rival or b.method == PRIOR):
        return None
    other = "its own mean map" if b.method == PRIOR else _named(b)
    here = f"Jaccard {change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    return _tested(f"`{a.model}` {a.method} against {other} on {data}", here, change, entry.p_holm)


def _tested(what: str, here: str, change: Estimate, p: float) -> Finding:
    return Finding(what, "", here, verdict(change, p), f"p {p:.2g} after Holm")


def _notes_4(measured: Measured) -> list[str]:
    """The mean Jaccard index of every map compared."""
    lines = []
    for name, summary in measured.segments.items():
        heads = [it for it in summary.methods if it.headline]
        said = ", ".join(f"{_named(it)} {it.jaccard_otsu.text(ROUND)}" for it in heads)
        lines.append(f"Mean Jaccard index on {name}, {heads[0].n:,} images: {said}.")
    return lines


def _named(side: MapName) -> str:
    method = side.method.replace("_", " ")
    return f"the floor `{method}`" if side.of_floor else f"`{side.model}` {method}"


def _claim_6(measured: Measured) -> list[Finding]:
    found = _without_maps(measured)
    for name, summary in measured.segments.items():
        for it in summary.level_trend:
            if it.model in ATTENTION:
                what = f"`{it.model}`, attention on the object, {it.higher} against {it.lower} on {name}"
                found.append(_tested(what, f"{points(it.estimate)} of the attention", it.estimate, it.p_holm))
    return found


def _notes_6(measured: Measured) -> list[str]:
    """How much more of each level's attention lies on the object than if it lay anywhere."""
    lines = []
    for name, summary in measured.segments.items():
        levels = [it for it in summary.attention_mass if it.model in ATTENTION]
        said = "; ".join(
            f"`{model}` " + ", ".join(f"{it.level} {it.ratio.text('{:.2f} ({:.2f} to {:.2f})')}" for it in its)
            for model, its in itertools.groupby(levels, lambda it: it.model)
        )
        if said:
            lines.append(
                f"Attention on the object over the object's share of the picture (1: it looks nowhere in particular), {name}: {said}."
            )
    return lines
