"""From measurements to findings, claim by claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import Estimate
from robustatt.studies.paper import reproduction
from robustatt.studies.paper.finding import Claim, Finding, points, verdict
from robustatt.studies.segment.result import HEADLINE, PRIOR, Entry

if TYPE_CHECKING:
    from robustatt.studies.transfer.result import DataSet, Transfer

ATTENTION = ("vgg_att1", "vgg_att2", "vgg_att3")
PLAIN = "vgg"
PAPER_CUB = {"vgg": 65.19, "vgg_att2": 73.13, "vgg_att3": 73.21}
PAPER_TRANSFER = "about +6 % on average of six sets"
TRAINED = "The command that trained and measured each stands in `robustatt/weights/cifar10/README.md`."
TITLES = {
    1: "Attention classifies better than the plain network",
    2: "The last two or three levels beat one level, class activation maps and progressive attention",
    3: "Features generalise better to other data sets",
    4: "Attention maps segment the object better than other attention, saliency and proposals",
    5: "Attention is fooled less by FGSM at small radii, and the gap narrows",
    6: "Lower levels look at the surroundings, higher levels at the object",
}


@dataclass(frozen=True)
class Measured:
    """What there is to judge by; None or missing where nothing was measured.

    ``sweep``: of ``sweep_name``, CIFAR-10, with the cards; ``fine``: grids of the fine-grained sweep by (model, attack); ``segments``:
    segment.json by data set; ``absent``: why a data set was not measured, by the part of the plan and its name there.
    """

    sweep: reproduction.Evidence
    sweep_name: str = "cifar10"
    fine: Mapping[tuple[str, str], Outcomes] = field(default_factory=dict)
    fine_name: str = ""
    transfer: Transfer | None = None
    transfer_names: Sequence[str] = ()
    segments: Mapping[str, Entry] = field(default_factory=dict)
    segment_names: Sequence[str] = ()
    absent: Mapping[tuple[str, str], str] = field(default_factory=dict)


def claims(measured: Measured, commands: Mapping[int, Sequence[str]]) -> list[Claim]:
    """All six, each with the commands its numbers come from."""
    found: dict[int, tuple[list[Finding], list[str]]] = {
        1: (_claim_1(measured), _notes_1(measured)),
        2: (reproduction.rivals(measured.sweep), [f"By the same accuracies as claim 1. {TRAINED}"]),
        3: (_claim_3(measured), _notes_3(measured)),
        4: (_claim_4(measured), _notes_4(measured)),
        5: (_claim_5(measured), _notes_5(measured)),
        6: (_claim_6(measured), _notes_6(measured)),
    }
    return [
        Claim(number, TITLES[number], findings, notes, commands.get(number, ()))
        for number, (findings, notes) in found.items()
    ]


def _share(right: int, n: int) -> str:
    low, high = statistics.wilson(right, n)
    return f"{100 * right / n:.1f} % ({100 * float(low):.1f} to {100 * float(high):.1f})"


def _notes_1(measured: Measured) -> list[str]:
    cards = measured.sweep.cards
    n = reproduction.TEST_IMAGES
    shares = ", ".join(f"`{name}` {_share(reproduction.right(cards[name]), n)}" for name in cards)
    notes = [f"Accuracy on all {n:,} test images of CIFAR-10, as the cards of the weights have it: {shares}. {TRAINED}"]
    curves = {model: outcomes for (model, _), outcomes in measured.fine.items()}
    if curves:
        fine = ", ".join(
            f"`{name}` {_share(int((outcomes.clean_pred == outcomes.label).sum()), len(outcomes.index))}"
            for name, outcomes in curves.items()
        )
        notes.append(f"Accuracy on {measured.fine_name}, {len(next(iter(curves.values())).index):,} images: {fine}.")
    return notes


def _claim_1(measured: Measured) -> list[Finding]:
    on_cifar = [_on(finding, "CIFAR-10") for finding in reproduction.classification(measured.sweep)]
    return [
        *on_cifar,
        *_fine_grained(measured),
        Finding("on CIFAR-100 and SVHN", why="no weights: `robustatt train --data cifar100` makes them"),
    ]


def _on(finding: Finding, data: str) -> Finding:
    return Finding(f"{finding.what} on {data}", finding.paper, finding.here, finding.verdict, finding.why)


def _fine_grained(measured: Measured) -> Iterator[Finding]:
    """Clean accuracy on fine-grained classes, paired on the same test images."""
    name = measured.fine_name
    curves = {model: outcomes for (model, _), outcomes in measured.fine.items()}
    if ("fine_grained", name) in measured.absent:
        yield Finding(f"on {name}", _paper_difference("vgg_att2"), why=measured.absent["fine_grained", name])
        return
    for model in (model for model in ATTENTION if model in curves and PLAIN in curves):
        change = paired_accuracy(curves[model], curves[PLAIN])
        yield Finding(
            f"`{model}` against `{PLAIN}` on {name}",
            _paper_difference(model),
            f"accuracy {points(change)}",
            verdict(change),
        )


def _paper_difference(model: str) -> str:
    return f"{PAPER_CUB[model] - PAPER_CUB[PLAIN]:+.1f} points (all 200 classes)" if model in PAPER_CUB else ""


def paired_accuracy(a: Outcomes, b: Outcomes) -> Estimate:
    """Clean accuracy of a minus that of b on the images both saw."""
    mine, theirs = a.align(b)
    right = (a.clean_pred == a.label)[mine], (b.clean_pred == b.label)[theirs]
    return statistics.newcombe_paired(statistics.PairedCounts.of(*right))


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
    scores = ", ".join(f"`{it.model}` {_share(it.right, it.n)}" for it in result.scores if it.data == data.name)
    return f"On {data.name}, {data.n:,} images, {data.protocol}: {scores}; the largest class {100 * data.floor:.1f} %."


def _claim_4(measured: Measured) -> list[Finding]:
    found = [_untested(measured, name) for name in measured.segment_names if name not in measured.segments]
    for name, summary in measured.segments.items():
        for entry in summary["comparisons"]:
            if entry["measure"] == HEADLINE and (finding := _overlap(entry, name)) is not None:
                found.append(finding)
    return found


def _untested(measured: Measured, name: str) -> Finding:
    return Finding(f"on {name}", why=measured.absent.get(("segment", name), "not measured"))


def _overlap(entry: Entry, data: str) -> Finding | None:
    """Attention against something else, whichever way round they were compared; None for any other pair."""
    a, b = entry["a"], entry["b"]
    change = Estimate(entry["difference"], entry["low"], entry["high"])
    if a["method"] == PRIOR or (b["model"] in ATTENTION and a["model"] not in ATTENTION):
        a, b, change = b, a, Estimate(-change.value, -change.high, -change.low)
    rival = b["model"] not in ATTENTION and not b["model"].endswith("_adv")
    if a["model"] not in ATTENTION or not (rival or b["method"] == PRIOR):
        return None
    other = "its own mean map" if b["method"] == PRIOR else _named(b)
    what = f"`{a['model']}` {a['method']} against {other} on {data}"
    here = f"Jaccard {change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
    return Finding(what, "", here, verdict(change, entry["p_holm"]), f"p {entry['p_holm']:.2g} after Holm")


def _notes_4(measured: Measured) -> list[str]:
    """The mean Jaccard index of every map compared."""
    lines = []
    for name, summary in measured.segments.items():
        heads = [it for it in summary["methods"] if it["headline"]]
        said = ", ".join(f"{_named(it)} {interval(it[HEADLINE])}" for it in heads)
        lines.append(f"Mean Jaccard index on {name}, {heads[0]['n']:,} images: {said}.")
    return lines


def interval(entry: Entry) -> str:
    """A mean of shares with its interval."""
    if entry["low"] is None:
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _named(side: Entry) -> str:
    method = side["method"].replace("_", " ")
    return f"the floor `{method}`" if side["model"] == "floor" else f"`{side['model']}` {method}"


def _claim_5(measured: Measured) -> list[Finding]:
    on_cifar = [_on(finding, "CIFAR-10") for finding in reproduction.resistance(measured.sweep)]
    if ("sweep", measured.sweep_name) in measured.absent:
        on_cifar = [Finding("on CIFAR-10", on_cifar[0].paper, why=measured.absent["sweep", measured.sweep_name])]
    if not measured.fine:
        return on_cifar
    fine = reproduction.Evidence(measured.sweep.cards, measured.fine)
    tested = [finding for finding in reproduction.resistance(fine) if finding.here]
    return [
        *on_cifar,
        *(Finding(f"{it.what} on {measured.fine_name}", "", it.here, it.verdict, it.why) for it in tested),
    ]


def _notes_5(measured: Measured) -> list[str]:
    """The fooling rates themselves at the smallest radius."""
    lines = []
    for data, layout in ((measured.sweep_name, measured.sweep.layout), (measured.fine_name, measured.fine)):
        curves = [outcomes for (_, attack), outcomes in layout.items() if attack == "fgsm" and len(outcomes.eps) > 1]
        if curves:
            said = ", ".join(
                f"`{it.model}` {_share(int(it.fooled[:, 1].sum()), int(it.present[:, 1].sum()))}" for it in curves
            )
            lines.append(f"Fooling rate under FGSM at {curves[0].eps[1]} on {data}: {said}.")
    return lines


def _claim_6(measured: Measured) -> list[Finding]:
    found = [_untested(measured, name) for name in measured.segment_names if name not in measured.segments]
    for name, summary in measured.segments.items():
        for it in summary["level_trend"]:
            if it["model"] in ATTENTION:
                change = Estimate(it["difference"], it["low"], it["high"])
                what = f"`{it['model']}`, attention on the object, {it['higher']} against {it['lower']} on {name}"
                found.append(
                    Finding(
                        what,
                        "",
                        f"{points(change)} of the attention",
                        verdict(change, it["p_holm"]),
                        f"p {it['p_holm']:.2g} after Holm",
                    )
                )
    return found


def _notes_6(measured: Measured) -> list[str]:
    """How much more of each level's attention lies on the object than if it lay anywhere."""
    lines = []
    for name, summary in measured.segments.items():
        levels = [it for it in summary["attention_mass"] if it["model"] in ATTENTION]
        by_model = dict.fromkeys(it["model"] for it in levels)
        said = "; ".join(
            f"`{model}` " + ", ".join(f"{it['level']} {_ratio(it['ratio'])}" for it in levels if it["model"] == model)
            for model in by_model
        )
        if said:
            lines.append(
                f"Attention on the object over the object's share of the picture (1: it looks nowhere in particular), {name}: {said}."
            )
    return lines


def _ratio(entry: Mapping[str, float]) -> str:
    return f"{entry['mean']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"
