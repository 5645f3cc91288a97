"""Claims 1, 2 and 5: clean accuracy, and fooling rates under FGSM."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from robustatt.results.outcomes import Outcomes
from robustatt.results.statistics import FloatArray
from robustatt.studies.paper.finding import (
    ATTENTION,
    HELD,
    ONE_SEED,
    OPEN,
    PLAIN,
    REVERSED,
    ComparisonTest,
    Finding,
    Measured,
    Swept,
    judge,
    points,
    signed,
)
from robustatt.studies.seeds import BySeed, SeedComparison, by_network, compare, compare_counts, shares

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000}
"""Of the sets that cards have the accuracy on the whole test set of."""

PAPER_ACCURACY = {
    "cifar10": {"vgg": 92.3, "vgg_att1": 94.39, "vgg_att2": 94.58, "vgg_att3": 93.55},
    "cifar100": {"vgg": 69.29, "vgg_att1": 76.45, "vgg_att2": 76.83, "vgg_att3": 77.02},
    "cub20": {"vgg": 65.19, "vgg_att2": 73.13, "vgg_att3": 73.21},
}
"""Top-1 accuracy in per cent at width 1, as far as known; on all 200 classes of CUB-200-2011."""

PAPER_GAP = 5.0
"""Percentage points by which attention is fooled less than VGG at 1/255, as reported."""

ATTACK = "fgsm"


# Claims 1 and 2: accuracy ---------------------------------------------------------------------------------


def accuracy_tests(swept: Swept, pairs: Sequence[tuple[str, str]]) -> list[ComparisonTest]:
    """Clean accuracy of the first network of each pair minus that of the second, for the pairs that were both trained."""
    found = []
    for name, rival in pairs:
        compared = _accuracy_compared(swept, name, rival)
        if compared is not None:
            found.append(
                ComparisonTest(
                    f"`{name}` against `{rival}` on {swept.data}", compared, _paper_difference(swept.data, name, rival)
                )
            )
    return found


def _accuracy_compared(swept: Swept, name: str, rival: str) -> SeedComparison | None:
    """On the same images if the sweep has all of them, otherwise by the counts on the cards."""
    counts, n = counted(swept)
    if name not in counts or rival not in counts:
        return None
    if _by_cards(swept):
        return compare_counts(counts[name], counts[rival], n)
    return compare(*aligned(swept, (name, rival), _clean_right, _any_attack(swept)))


def _by_cards(swept: Swept) -> bool:
    """Whether clean accuracy is that of the cards: the sweep attacked only a part of the test images that they speak of."""
    return swept.data in TEST_IMAGES and not swept.whole


def counted(swept: Swept) -> tuple[dict[str, list[int]], int]:
    """How many images each network classifies right, by seed, and of how many."""
    if _by_cards(swept):
        n = TEST_IMAGES[swept.data]
        cards = {label: card for label, card in swept.cards.items() if card.clean_accuracy is not None}
        return {
            network: [round((cards[label].clean_accuracy or 0.0) * n) for label in labels]
            for network, labels in by_network(cards).items()
        }, n
    curves = {model: outcomes for (model, attack), outcomes in swept.curves.items() if attack == _any_attack(swept)}
    right = {label: int(_clean_right(outcomes).sum()) for label, outcomes in curves.items()}
    n = max((len(outcomes.index) for outcomes in curves.values()), default=0)
    return {network: [right[label] for label in labels] for network, labels in by_network(right).items()}, n


def _any_attack(swept: Swept) -> str:
    return next((attack for _, attack in swept.curves), ATTACK)


def _clean_right(outcomes: Outcomes) -> FloatArray:
    right: FloatArray = (outcomes.clean_pred == outcomes.label).astype(np.float64)
    return right


def aligned(
    swept: Swept, networks: tuple[str, str], values: Callable[[Outcomes], FloatArray], attack: str
) -> tuple[BySeed, BySeed]:
    """A number for each image of two networks, all seeds, on the images that all of them have."""
    labels = by_network(model for model, name in swept.curves if name == attack)
    chosen = [[swept.curves[label, attack] for label in labels[network]] for network in networks]
    every = [outcomes.index for side in chosen for outcomes in side]
    common = functools.reduce(np.intersect1d, every)
    first, second = (
        BySeed(np.stack([values(outcomes)[np.searchsorted(outcomes.index, common)] for outcomes in side])) for side in chosen
    )
    return first, second


def _paper_difference(data: str, name: str, rival: str) -> str:
    known = PAPER_ACCURACY.get(data, {})
    return f"{known[name] - known[rival]:+.1f} points" if name in known and rival in known else ""


def missing(swept: Swept, pairs: Sequence[tuple[str, str]]) -> list[Finding]:
    """What cannot be compared on a data set, and why."""
    counts, _ = counted(swept)
    found = []
    for name, rival in pairs:
        lacking = [it for it in (name, rival) if it not in counts]
        if lacking:
            what = f"`{name}` against `{rival}` on {swept.data}"
            why = swept.absent or f"`{'` and `'.join(lacking)}` not trained"
            found.append(Finding(what, _paper_difference(swept.data, name, rival), why=why))
    return found


CLASSIFICATION = [(name, PLAIN) for name in ATTENTION]
RIVALS = list(itertools.product(("vgg_att2", "vgg_att3"), ("vgg_att1", "vgg_gap", "vgg_pan")))


def claim_1(measured: Measured) -> list[Finding]:
    """On every data set: attention classifies better than the plain network."""
    tests = [test for swept in measured.sweeps for test in accuracy_tests(swept, CLASSIFICATION)]
    absent = [finding for swept in measured.sweeps if not swept.absent for finding in missing(swept, CLASSIFICATION)]
    gone = [Finding(f"on {swept.data}", why=swept.absent) for swept in measured.sweeps if swept.absent and not counted(swept)[0]]
    return [*judge(tests), *absent, *gone]


def claim_2(measured: Measured) -> list[Finding]:
    """On CIFAR-10: two or three levels beat one, activation maps and progressive attention."""
    swept = measured.sweeps[:1]
    tests = [test for it in swept for test in accuracy_tests(it, RIVALS)]
    return [*judge(tests), *(finding for it in swept for finding in missing(it, RIVALS))]


def notes_1(measured: Measured) -> list[str]:
    """The accuracies themselves."""
    notes = []
    for swept in measured.sweeps:
        counts, n = counted(swept)
        said = ", ".join(f"`{name}` {shares(rights, n)}" for name, rights in counts.items())
        if said:
            cards = ", as the cards of the weights have it" if _by_cards(swept) else ""
            notes.append(f"Accuracy on {n:,} test images of {swept.data}{cards}: {said}.")
    return notes


# Claim 5: FGSM --------------------------------------------------------------------------------------------


def fooled_by_radius(swept: Swept, name: str, rival: str = PLAIN, attack: str = ATTACK) -> dict[int, tuple[BySeed, BySeed]]:
    """Which images fooled two networks, by radius in whole steps of 1/255."""
    labels = by_network(model for model, it in swept.curves if it == attack)
    if name not in labels or rival not in labels:
        return {}
    radii = {swept.curves[label, attack].eps for network in (name, rival) for label in labels[network]}
    if len(radii) > 1:
        return {}
    found = {}
    for place, eps in enumerate(radii.pop()):
        steps = eps.partition("/")[0]
        if steps.isdecimal() and int(steps):
            at = functools.partial(_fooled_at, place)
            found[int(steps)] = aligned(swept, (name, rival), at, attack)
    return found


def _fooled_at(place: int, outcomes: Outcomes) -> FloatArray:
    fooled: FloatArray = outcomes.fooled[:, place].astype(np.float64)
    return fooled


def claim_5(measured: Measured) -> list[Finding]:
    """On every data set: attention is fooled less at small radii, and the gap narrows."""
    tests, narrowing, absent = list[ComparisonTest](), list[Finding](), list[Finding]()
    for swept in measured.sweeps:
        if swept.absent:
            absent.append(Finding(f"on {swept.data}", f"about {-PAPER_GAP:+g} points at 1/255", why=swept.absent))
            continue
        for name in ("vgg_att2", "vgg_att3"):
            sides = fooled_by_radius(swept, name)
            if not sides:
                absent.append(
                    Finding(
                        f"`{name}` against `{PLAIN}` on {swept.data}", why=f"`{name}` or `{PLAIN}` not trained or not attacked"
                    )
                )
                continue
            first = min(sides)
            paper = f"about {-PAPER_GAP:+g} points" if first == 1 and swept.data == "cifar10" else ""
            what = f"`{name}` against `{PLAIN}` on {swept.data}"
            tests.append(ComparisonTest(f"{what} at {first}/255", compare(*sides[first]), paper, "fooling rate {}", less=True))
            narrowing.append(_narrowing(f"{what}: the gap as eps grows", sides))
    return [*judge(tests), *narrowing, *absent]


def _narrowing(what: str, sides: dict[int, tuple[BySeed, BySeed]]) -> Finding:
    """A gap in the paper's sense must be there, and grow towards 0 on the same images."""
    first, last = min(sides), max(sides)
    gap = compare(*sides[first])
    a, b = (BySeed(late.values - early.values) for early, late in zip(sides[first], sides[last], strict=True))
    change = compare(a, b)
    sizes = ", ".join(f"{signed(compare(*sides[eps]).change.value)} at {eps}/255" for eps in (1, 2, 4, 8, 16) if eps in sides)
    here = f"{sizes}; from the first to the last {points(change.change)}"
    if not gap.over_seeds:
        return Finding(what, "narrows", here, ONE_SEED)
    if gap.change.high >= 0:
        return Finding(what, "narrows", here, OPEN, "no gap in the paper's sense beyond chance at the smallest radius")
    if change.change.low > 0:
        return Finding(what, "narrows", here, HELD)
    return Finding(
        what, "narrows", here, REVERSED if change.change.high < 0 else OPEN, "it widens" if change.change.high < 0 else ""
    )


def notes_5(measured: Measured) -> list[str]:
    """The fooling rates themselves at the smallest radius."""
    return [line for swept in measured.sweeps for line in _fooling_rates(swept)]


def _fooling_rates(swept: Swept) -> Iterator[str]:
    curves = {model: it for (model, attack), it in swept.curves.items() if attack == ATTACK and len(it.eps) > 1}
    if curves:
        eps = next(iter(curves.values())).eps[1]
        n = max(int(it.present[:, 1].sum()) for it in curves.values())
        said = ", ".join(
            f"`{network}` {shares([int(curves[label].fooled[:, 1].sum()) for label in labels], n)}"
            for network, labels in by_network(curves).items()
        )
        yield f"Fooling rate under FGSM at {eps} on {swept.data}, {n:,} images: {said}."
