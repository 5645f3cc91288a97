"""From measurements to findings: the six claims of the paper; those of accuracy and fooling are judged in ``accuracy``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from robustatt.eps import CLEAN
from robustatt.models.families import ADVERSARIAL
from robustatt.studies.paper.accuracy import claim_1, claim_2, claim_5, notes_1, notes_5
from robustatt.studies.paper.finding import ATTENTION, PLAIN, Claim, ComparisonTest, Finding, Localised, Measured, judge
from robustatt.studies.seeds import BySeed, by_network, compare, compare_on_average, network_of, shares
from robustatt.studies.segment.floors import FLOOR
from robustatt.studies.segment.result import COMPARED, HEADLINE, PRIOR

if TYPE_CHECKING:
    from robustatt.studies.transfer.result import DataSet, Transfer

PAPER_TRANSFER = "about +6 % on average of six sets"
TITLES = {
    1: "Attention classifies better than the plain network",
    2: "The last two or three levels beat one level, class activation maps and progressive attention",
    3: "Features generalise better to other data sets",
    4: "Attention maps segment the object better than other attention, saliency and proposals",
    5: "Attention is fooled less by FGSM at small radii, and the gap narrows",
    6: "Lower levels look at the surroundings, higher levels at the object",
}
AXES = {
    1: "difference in accuracy, percentage points",
    2: "difference in accuracy, percentage points",
    3: "difference in accuracy, percentage points",
    4: "difference in the Jaccard index",
    5: "difference in fooling rate, percentage points (the paper's side is below 0)",
    6: "attention on the object, highest level minus lowest, percentage points",
}


def claims(measured: Measured, commands: Mapping[int, Sequence[str]]) -> list[Claim]:
    """All six, each with the commands its numbers come from."""
    found: dict[int, tuple[list[Finding], list[str]]] = {
        1: (claim_1(measured), notes_1(measured)),
        2: (claim_2(measured), ["By the same accuracies as claim 1."]),
        3: (_claim_3(measured), _notes_3(measured)),
        4: (_claim_4(measured), _notes_4(measured)),
        5: (claim_5(measured), notes_5(measured)),
        6: (_claim_6(measured), _notes_6(measured)),
    }
    return [
        Claim(number, TITLES[number], findings, notes, commands.get(number, ()), AXES[number], percent=number != 4)
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
    names = [data.name for data in result.sets]
    sides = {name: _right(result, name) for name in names}
    networks = [network for network in ATTENTION if network in sides[names[0]] and PLAIN in sides[names[0]]]
    tests = [
        ComparisonTest(f"`{network}` against `{PLAIN}`, mean of {len(names)} sets",
             compare_on_average([(sides[name][network], sides[name][PLAIN]) for name in names]), PAPER_TRANSFER)
        for network in networks if len(names) > 1
    ]  # fmt: skip
    tests += [
        ComparisonTest(f"`{network}` against `{PLAIN}` on {name}", compare(sides[name][network], sides[name][PLAIN]))
        for name in names for network in networks
    ]  # fmt: skip
    return [*judge(tests), *absent]


def _right(result: Transfer, data: str) -> dict[str, BySeed]:
    """Which images of a set each network answers right, by seed."""
    rows = result.predictions[result.predictions["data"] == data]
    right = rows.assign(right=rows["label"] == rows["prediction"]).pivot(index="index", columns="model", values="right")
    return _by_seed(right)


def _by_seed(table: pd.DataFrame, fixed: bool = False) -> dict[str, BySeed]:
    """Columns are labels, rows images."""
    return {
        network: BySeed(table[labels].to_numpy(np.float64).T, fixed)
        for network, labels in by_network(map(str, table.columns)).items()
    }


def _notes_3(measured: Measured) -> list[str]:
    result = measured.transfer
    if result is None:
        return []
    width = {network_of(model.name): model.width for model in result.models}
    widths = ", ".join(f"`{network}` {count}" for network, count in width.items())
    return [
        f"Numbers an image: {widths}. A longer vector is an advantage that the claim does not speak of.",
        *(_accuracies(result, data) for data in result.sets),
    ]


def _accuracies(result: Transfer, data: DataSet) -> str:
    right = {it.model: it.right for it in result.scores if it.data == data.name}
    scores = ", ".join(
        f"`{network}` {shares([right[label] for label in labels], data.n)}" for network, labels in by_network(right).items()
    )
    return f"On {data.name}, {data.n:,} images, {data.protocol}: {scores}; the largest class {100 * data.floor:.1f} %."


# Claims 4 and 6: maps -------------------------------------------------------------------------------------


def _claim_4(measured: Measured) -> list[Finding]:
    tests = [test for name, it in measured.segments.items() for test in overlap_tests(it, name)]
    return [*_without_maps(measured), *judge(tests)]


def _without_maps(measured: Measured) -> list[Finding]:
    return [
        Finding(f"on {name}", why=measured.absent.get(("segment", name), "not measured"))
        for name in measured.segment_names
        if name not in measured.segments
    ]


def overlap_tests(found: Localised, data: str, measure: str = HEADLINE) -> list[ComparisonTest]:
    """Each attention network's map against its rivals' maps, the floors and its own mean map."""
    clean = found.images[found.images["eps"] == CLEAN]
    headline = clean[clean["headline"] & (clean["model"] != FLOOR)]
    maps = _by_seed(headline.pivot(index="index", columns="model", values=measure))
    prior = _by_seed(clean[clean["kind"] == PRIOR].pivot(index="index", columns="model", values=measure))
    floors = clean[clean["model"] == FLOOR].pivot(index="index", columns="method", values=measure)
    method = {network_of(str(model)): str(name) for model, name in zip(headline["model"], headline["method"], strict=True)}
    rivals = [name for name in maps if name not in ATTENTION and not name.endswith(ADVERSARIAL)]
    form = f"{COMPARED[measure]} {{}}"
    tests = []
    for network in (name for name in ATTENTION if name in maps):
        mine = f"`{network}` {method[network]}"
        tests += [
            ComparisonTest(
                f"{mine} against `{it}` {method[it]} on {data}", compare(maps[network], maps[it]), form=form, percent=False
            )
            for it in rivals
        ]
        tests.append(
            ComparisonTest(
                f"{mine} against its own mean map on {data}", compare(maps[network], prior[network]), form=form, percent=False
            )
        )
        for floor in floors.columns:
            fixed = BySeed(floors[[floor]].to_numpy(np.float64).T, fixed=True)
            named = str(floor).replace("_", " ")
            tests.append(
                ComparisonTest(
                    f"{mine} against the floor `{named}` on {data}", compare(maps[network], fixed), form=form, percent=False
                )
            )
    return tests


def by_measure(measured: Measured) -> Iterator[tuple[str, str, str]]:
    """How the same comparisons come out by each measure of overlap: data set, measure, summary."""
    for data, found in measured.segments.items():
        for measure, title in COMPARED.items():
            yield data, title, Claim(4, "", judge(overlap_tests(found, data, measure))).summary()


def _notes_4(measured: Measured) -> list[str]:
    """The mean Jaccard index of every map compared."""
    lines = []
    for name, found in measured.segments.items():
        heads = {it.model: it for it in found.summary.methods if it.headline and not it.of_floor}
        said = [
            f"`{network}` {heads[labels[0]].method.replace('_', ' ')} {_means([heads[label].by(HEADLINE).mean for label in labels])}"
            for network, labels in by_network(heads).items()
        ]
        said += [
            f"the floor `{it.method.replace('_', ' ')}` {it.by(HEADLINE).mean:.3f}" for it in found.summary.methods if it.of_floor
        ]
        lines.append(f"Mean {COMPARED[HEADLINE]} on {name}, {found.summary.data.reported:,} images: {', '.join(said)}.")
    return lines


def _means(values: Sequence[float]) -> str:
    each = f" (seeds {', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{each}"


def _claim_6(measured: Measured) -> list[Finding]:
    tests = []
    for name, found in measured.segments.items():
        ends = {network_of(it.model): (it.lower, it.higher) for it in found.summary.level_trend}
        for network in (it for it in ATTENTION if it in ends):
            lower, higher = (_mass(found, network, level) for level in ends[network])
            what = f"`{network}`, attention on the object, {ends[network][1]} against {ends[network][0]} on {name}"
            gap, none = BySeed(higher.values - lower.values), BySeed(np.zeros((1, higher.values.shape[1])), fixed=True)
            tests.append(ComparisonTest(what, compare(gap, none), form="{} of the attention"))
    return [*_without_maps(measured), *judge(tests)]


def _mass(found: Localised, network: str, level: str) -> BySeed:
    images = found.images
    rows = images[(images["eps"] == CLEAN) & (images["method"] == level) & (images["model"].map(network_of) == network)]
    return _by_seed(rows.pivot(index="index", columns="model", values="mass"))[network]


def _notes_6(measured: Measured) -> list[str]:
    """How much more of each level's attention lies on the object than if it lay anywhere."""
    lines = []
    for name, found in measured.segments.items():
        levels = [it for it in found.summary.attention_mass if network_of(it.model) in ATTENTION]
        said = "; ".join(
            f"`{model}` " + ", ".join(f"{it.level} {it.ratio.text('{:.2f} ({:.2f} to {:.2f})')}" for it in its)
            for model, its in itertools.groupby(levels, lambda it: it.model)
        )
        if said:
            lines.append(
                f"Attention on the object over the object's share of the picture (1: it looks nowhere in particular), {name}: {said}."
            )
    return lines
