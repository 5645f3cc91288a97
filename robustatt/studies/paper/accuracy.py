"""Claims 1, 2 and 5: clean accuracy on CIFAR-10 and on fine-grained classes, and fooling rates under FGSM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from robustatt.results import statistics
from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import Estimate
from robustatt.studies.paper.finding import (
    ATTENTION,
    HELD,
    OPEN,
    PLAIN,
    REVERSED,
    Curves,
    Evidence,
    Finding,
    Measured,
    difference,
    negative,
    points,
    share,
    signed,
    verdict,
)

if TYPE_CHECKING:
    from robustatt.models.card import Card

TEST_IMAGES = 10_000
PAPER_ACCURACY: dict[str, float | None] = {
    "vgg": 92.3,
    "vgg_gap": None,
    "vgg_pan": None,
    "vgg_att1": 94.39,
    "vgg_att2": 94.58,
    "vgg_att3": 93.55,
    "vgg_att3_adv": None,
}
"""Top-1 accuracy in per cent on CIFAR-10 at width 1, as far as known; the order in which networks are listed."""

PAPER_GAP = 5.0
"""Percentage points by which attention is fooled less than VGG at 1/255, as reported."""

PAPER_CUB = {"vgg": 65.19, "vgg_att2": 73.13, "vgg_att3": 73.21}
UNTRAINED = "not trained"
TRAINED = "The command that trained and measured each stands in `robustatt/weights/cifar10/README.md`."


def _on(findings: Sequence[Finding], data: str) -> list[Finding]:
    return [replace(finding, what=f"{finding.what} on {data}") for finding in findings]


# Claims 1 and 2: accuracy ---------------------------------------------------------------------------------


def classification(evidence: Evidence) -> list[Finding]:
    """Claim 1 on CIFAR-10: attention improves classification over the plain network."""
    return [_accuracy(evidence, name, PLAIN) for name in ATTENTION]


def rivals(evidence: Evidence) -> list[Finding]:
    """Claim 2: two or three levels beat one, activation maps and progressive attention."""
    pairs = itertools.product(("vgg_att2", "vgg_att3"), ("vgg_att1", "vgg_gap", "vgg_pan"))
    return [_accuracy(evidence, name, rival) for name, rival in pairs]


def _accuracy(evidence: Evidence, name: str, rival: str) -> Finding:
    what = f"`{name}` against `{rival}`"
    mine, theirs = PAPER_ACCURACY[name], PAPER_ACCURACY[rival]
    paper = "" if mine is None or theirs is None else f"{mine - theirs:+.1f} points"
    missing = [it for it in (name, rival) if it not in evidence.cards]
    if missing:
        return Finding(what, paper, why=f"`{'` and `'.join(missing)}` {UNTRAINED}")
    change = difference(right(evidence.cards[name]), right(evidence.cards[rival]), TEST_IMAGES)
    return Finding(what, paper, f"accuracy {points(change)}", verdict(change))


def right(card: Card) -> int:
    """How many of the 10,000 test images a network classifies right, by its card."""
    return round((card.clean_accuracy or 0.0) * TEST_IMAGES)


def claim_1(measured: Measured) -> list[Finding]:
    """On every data set: attention classifies better than the plain network."""
    return [
        *_on(classification(measured.sweep), "CIFAR-10"),
        *_fine_grained(measured),
        Finding("on CIFAR-100 and SVHN", why="no weights: `robustatt train --data cifar100` makes them"),
    ]


def notes_1(measured: Measured) -> list[str]:
    """The accuracies themselves."""
    shares = ", ".join(f"`{name}` {share(right(card), TEST_IMAGES)}" for name, card in measured.sweep.cards.items())
    notes = [f"Accuracy on all {TEST_IMAGES:,} test images of CIFAR-10, as the cards of the weights have it: {shares}. {TRAINED}"]
    curves = _by_model(measured.fine)
    if curves:
        fine = ", ".join(
            f"`{name}` {share(int((it.clean_pred == it.label).sum()), len(it.index))}" for name, it in curves.items()
        )
        notes.append(f"Accuracy on {measured.fine_name}, {len(next(iter(curves.values())).index):,} images: {fine}.")
    return notes


def _by_model(curves: Curves) -> dict[str, Outcomes]:
    return {model: outcomes for (model, _), outcomes in curves.items()}


def _fine_grained(measured: Measured) -> Iterator[Finding]:
    """Clean accuracy on fine-grained classes, paired on the same test images."""
    name, curves = measured.fine_name, _by_model(measured.fine)
    if ("fine_grained", name) in measured.absent:
        yield Finding(f"on {name}", _paper_difference("vgg_att2"), why=measured.absent["fine_grained", name])
        return
    for model in (model for model in ATTENTION if model in curves and PLAIN in curves):
        change = paired_accuracy(curves[model], curves[PLAIN])
        what = f"`{model}` against `{PLAIN}` on {name}"
        yield Finding(what, _paper_difference(model), f"accuracy {points(change)}", verdict(change))


def _paper_difference(model: str) -> str:
    return f"{PAPER_CUB[model] - PAPER_CUB[PLAIN]:+.1f} points (all 200 classes)" if model in PAPER_CUB else ""


def paired_accuracy(a: Outcomes, b: Outcomes) -> Estimate:
    """Clean accuracy of a minus that of b on the images both saw."""
    mine, theirs = a.align(b)
    correct = (a.clean_pred == a.label)[mine], (b.clean_pred == b.label)[theirs]
    return statistics.newcombe_paired(statistics.PairedCounts.of(*correct))


# Claim 5: FGSM --------------------------------------------------------------------------------------------


def resistance(evidence: Evidence) -> list[Finding]:
    """Claim 5: less fooling by FGSM at small radii, the gap narrowing as the radius grows."""
    return [finding for name in ("vgg_att2", "vgg_att3") for finding in _resistance(evidence, name)]


def _resistance(evidence: Evidence, name: str) -> Iterator[Finding]:
    gaps = fooling_gaps(evidence.curves, name, PLAIN, "fgsm")
    what = f"`{name}` against `{PLAIN}`"
    if not gaps:
        paper = f"about {-PAPER_GAP:+g} points at 1/255"
        yield Finding(what, paper, why=f"`{name}` or `{PLAIN}` {UNTRAINED} or not attacked")
        return
    first, last = min(gaps), max(gaps)
    paper = f"about {-PAPER_GAP:+g} points" if first == 1 else ""
    here = f"fooling rate {points(gaps[first])}"
    yield Finding(f"{what} at {first}/255", paper, here, verdict(negative(gaps[first])))
    sizes = ", ".join(f"{signed(gaps[eps].value)} at {eps}/255" for eps in (1, 2, 4, 8, 16) if eps in gaps)
    yield Finding(f"{what}: the gap as eps grows", "narrows", sizes, *_narrowing(gaps[first], gaps[last]))


def _narrowing(first: Estimate, last: Estimate) -> tuple[str, str]:
    """Verdict and reason: a gap in the paper's sense must be there, and be smaller beyond both intervals."""
    if first.high >= 0:
        return OPEN, "no gap in the paper's sense beyond chance at the smallest radius"
    if first.high < last.low:
        return HELD, ""
    return (REVERSED, "it widens") if last.high < first.low else (OPEN, "")


def fooling_gaps(curves: Curves, name: str, rival: str, attack: str) -> dict[int, Estimate]:
    """Fooling rate of one network minus another's on the same images, by radius in whole steps of 1/255."""
    mine, theirs = curves.get((name, attack)), curves.get((rival, attack))
    if mine is None or theirs is None or mine.eps != theirs.eps:
        return {}
    a, b = mine.align(theirs)
    found = {}
    for place, eps in enumerate(mine.eps):
        steps = eps.partition("/")[0]
        if steps.isdecimal() and int(steps):
            counts = statistics.PairedCounts.of(mine.fooled[a, place], theirs.fooled[b, place])
            found[int(steps)] = statistics.newcombe_paired(counts)
    return found


def claim_5(measured: Measured) -> list[Finding]:
    """On both sweeps: attention is fooled less at small radii, and the gap narrows."""
    on_cifar = _on(resistance(measured.sweep), "CIFAR-10")
    if ("sweep", measured.sweep_name) in measured.absent:
        on_cifar = [Finding("on CIFAR-10", on_cifar[0].paper, why=measured.absent["sweep", measured.sweep_name])]
    fine = resistance(replace(measured.sweep, curves=measured.fine)) if measured.fine else []
    tested = _on([finding for finding in fine if finding.here], measured.fine_name)
    return [*on_cifar, *(replace(finding, paper="") for finding in tested)]


def notes_5(measured: Measured) -> list[str]:
    """The fooling rates themselves at the smallest radius."""
    lines = []
    for data, curves in ((measured.sweep_name, measured.sweep.curves), (measured.fine_name, measured.fine)):
        shown = [it for (_, attack), it in curves.items() if attack == "fgsm" and len(it.eps) > 1]
        if shown:
            said = ", ".join(
                f"`{it.model}` {share(int(it.fooled[:, 1].sum()), int(it.present[:, 1].sum()))}" for it in shown
            )
            lines.append(f"Fooling rate under FGSM at {shown[0].eps[1]} on {data}: {said}.")
    return lines
