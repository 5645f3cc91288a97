"""From one row for each image, method and radius to the numbers that are reported.

Means have Student's t interval (95 %) over images, shares of hits Wilson's. Two methods are compared on the same
images: mean difference with a seeded paired bootstrap interval, p-value by Wilcoxon's signed-rank test (zeros by Pratt,
normal approximation), adjusted by Holm over all comparisons of one table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustatt.eps import CLEAN
from robustatt.report.markdown import plain_table
from robustatt.results import statistics
from robustatt.studies.segment.binarise import WAYS
from robustatt.studies.segment.floors import FLOOR

HEADLINE = "jaccard_otsu"
COMPARED = {
    HEADLINE: "Jaccard (Otsu)",
    "jaccard_threshold": "Jaccard (fitted threshold)",
    "average_precision": "average precision",
}
MEASURES = (
    *(f"{name}_{way}" for name in ("jaccard", "precision", "recall") for way in WAYS),
    "average_precision",
    "mass",
)
PRIOR = "prior"  # the mean, over the held-out images, of the map that a model is judged by
LOOKING = ("attention", "gate", "activation")  # the kinds of maps that are a level of a network
RESAMPLES = 2000

Entry = dict[str, Any]
"""A number or a table row of `segment.json`: plain values by name."""


def mean(values: Any) -> Entry:
    """``{mean, low, high}`` of shares, the interval cut to [0, 1]; low and high are None for a single image."""
    array = np.asarray(values, dtype=np.float64)
    middle, low, high = (
        float(value) for value in statistics.mean_interval(array.sum(), np.square(array).sum(), array.size)
    )
    if not math.isfinite(low):
        return {"mean": middle, "low": None, "high": None}
    return {"mean": middle, "low": max(low, 0.0), "high": min(high, 1.0)}


def hits(values: Any) -> Entry:
    """``{mean, low, high}`` of hits and misses, with Wilson's interval; a tie is a part of a hit."""
    array = np.asarray(values, dtype=np.float64)
    low, high = statistics.wilson(array.sum(), array.size)
    return {"mean": statistics.mean(array), "low": float(low), "high": float(high)}


def methods(images: pd.DataFrame) -> list[Entry]:
    """Every model and method on clean images, in the order measured; ``thresholds`` are joined by the caller."""
    clean = images[images["eps"] == CLEAN]
    return [
        {
            "model": model, "method": method, "kind": rows["kind"].iloc[0], "headline": bool(rows["headline"].iloc[0]),
            "n": len(rows), **{name: mean(rows[name]) for name in MEASURES}, "pointing": hits(rows["pointing"]),
        }
        for (model, method), rows in clean.groupby(["model", "method"], sort=False)
    ]  # fmt: skip


def paired(a: Any, b: Any, seed: int) -> Entry:
    """Mean of a - b over the same images with its bootstrap interval, and Wilcoxon's p-value."""
    from scipy.stats import wilcoxon

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    estimate = statistics.paired_bootstrap(first, second, seed)
    same = bool(np.all(first == second))
    p = 1.0 if same else float(wilcoxon(first, second, zero_method="pratt", method="approx").pvalue)
    return {"difference": estimate.value, "low": estimate.low, "high": estimate.high, "p": p}


def comparisons(images: pd.DataFrame, seed: int) -> list[Entry]:
    """Headline methods against each other, the floors and their own prior, on clean images.

    By each measure of ``COMPARED``.
    """
    compared = images["headline"] | (images["kind"] == PRIOR)
    clean = images[(images["eps"] == CLEAN) & compared].sort_values("index", kind="stable")
    groups = list(clean.groupby(["model", "method"], sort=False))
    found = [
        {
            "a": {"model": a[0], "method": a[1]}, "b": {"model": b[0], "method": b[1]}, "measure": name,
            **paired(left[name], right[name], seed),
        }
        for name in COMPARED
        for (a, left), (b, right) in itertools.combinations(groups, 2)
        if _worth_comparing(a, b)
    ]  # fmt: skip
    return adjusted(found)


def _worth_comparing(a: tuple[Hashable, ...], b: tuple[Hashable, ...]) -> bool:
    if PRIOR in (a[1], b[1]):
        return a[0] == b[0]
    return not a[0] == b[0] == FLOOR


def adjusted(found: list[Entry]) -> list[Entry]:
    """The comparisons with ``p_holm``."""
    return [
        {**entry, "p_holm": float(p)}
        for entry, p in zip(found, statistics.holm([entry["p"] for entry in found]), strict=True)
    ]


def attention_mass(images: pd.DataFrame, seed: int) -> list[Entry]:
    """For every level: the share of attention on the object, the object's share of the picture, and their ratio.

    The ratio is of the two means, with a seeded bootstrap interval over images: 1 is what looking nowhere in
    particular gives.
    """
    looking = images[(images["eps"] == CLEAN) & images["kind"].isin(LOOKING)]
    return [
        {
            "model": model, "level": method, "n": len(rows), "mass": mean(rows["mass"]),
            "object_share": mean(rows["object_share"]), "ratio": _ratio(rows["mass"], rows["object_share"], seed),
        }
        for (model, method), rows in looking.groupby(["model", "method"], sort=False)
    ]  # fmt: skip


def _ratio(above: Any, below: Any, seed: int) -> Entry:
    first, second = np.asarray(above, np.float64), np.asarray(below, np.float64)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(first), size=(RESAMPLES, len(first)))
    low, high = np.quantile(first[drawn].mean(1) / second[drawn].mean(1), [0.025, 0.975])
    return {"mean": float(first.mean() / second.mean()), "low": float(low), "high": float(high)}


def level_trend(images: pd.DataFrame, seed: int) -> list[Entry]:
    """Claim 6: attention on the object at the highest level minus that at the lowest, image by image."""
    looking = images[(images["eps"] == CLEAN) & images["kind"].isin(LOOKING)].sort_values("index", kind="stable")
    found = []
    for model, rows in looking.groupby("model", sort=False):
        levels = sorted(rows["method"].unique())
        if len(levels) > 1:
            mass = {level: rows.loc[rows["method"] == level, "mass"] for level in levels}
            pair = {"model": model, "lower": levels[0], "higher": levels[-1]}
            found.append({**pair, **paired(mass[levels[-1]], mass[levels[0]], seed)})
    return adjusted(found)


def robustness(images: pd.DataFrame, seed: int) -> list[Entry]:
    """Every model and method over the radii, on the images that were attacked; the clean radius first."""
    seen = images["index"].isin(images.loc[images["eps"] != CLEAN, "index"])
    attacked = images[seen & (images["model"] != FLOOR) & (images["kind"] != PRIOR)]
    found = []
    for (model, method), rows in attacked.groupby(["model", "method"], sort=False):
        by_eps = {eps: part.sort_values("index") for eps, part in rows.groupby("eps", sort=False)}
        points = [_point(str(eps), part, by_eps[CLEAN], seed) for eps, part in by_eps.items()]
        head = {name: rows[name].iloc[0] for name in ("kind", "headline")}
        found.append({"model": model, "method": method, **head, "headline": bool(head["headline"]), "points": points})
    return found


def _point(eps: str, rows: pd.DataFrame, clean: pd.DataFrame, seed: int) -> Entry:
    return {
        "eps": eps, "n": len(rows), **{name: mean(rows[name]) for name in (*COMPARED, "mass")},
        "pointing": hits(rows["pointing"]), "fooling_rate": hits(rows["fooled"]),
        "change": {key: value for key, value in paired(rows[HEADLINE], clean[HEADLINE], seed).items() if key != "p"},
    }  # fmt: skip


def standing(summary: Entry) -> Iterator[str]:
    """What each model's headline map is worth against the best of the floors and against its own prior."""
    floors = [entry for entry in summary["methods"] if entry["model"] == FLOOR]
    for entry in summary["methods"]:
        if entry["model"] == FLOOR or not entry["headline"]:
            continue
        for name, words in COMPARED.items():
            best = _best(floors, name)
            prior = next(it for it in summary["methods"] if (it["model"], it["method"]) == (entry["model"], PRIOR))
            verdicts = (
                _verdict(entry, other, name, called, summary["comparisons"])
                for other, called in ((best, f"the best floor ({best['method']})"), (prior, "its own mean map"))
            )
            yield f"{entry['model']} {entry['method']}, {words} {entry[name]['mean']:.3f}: {'; '.join(verdicts)}"


def _best(floors: Sequence[Entry], name: str) -> Entry:
    return max(floors, key=lambda floor: float(floor[name]["mean"]))


def _is_pair(test: Entry, a: Entry, b: Entry) -> bool:
    return all(
        (test[side]["model"], test[side]["method"]) == (it["model"], it["method"]) for side, it in (("a", a), ("b", b))
    )


def _verdict(entry: Entry, other: Entry, name: str, called: str, tests: Sequence[Entry]) -> str:
    test = next(it for it in tests if it["measure"] == name and _is_pair(it, entry, other))
    word = "above" if entry[name]["mean"] > other[name]["mean"] else "below"
    sure = "" if test["p_holm"] <= 0.05 else ", no significant difference"
    return f"{word} {called} {other[name]['mean']:.3f} (p {test['p_holm']:.2g} after Holm{sure})"


def summarise(images: pd.DataFrame, thresholds: dict[tuple[str, str], float], seed: int) -> Entry:
    """The parts of ``segment.json`` that come from the images' rows."""
    listed = [{**entry, "threshold": thresholds[entry["model"], entry["method"]]} for entry in methods(images)]
    summary: Entry = {
        "methods": listed,
        "comparisons": comparisons(images, seed),
        "attention_mass": attention_mass(images, seed),
        "level_trend": level_trend(images, seed),
        "robustness": robustness(images, seed),
    }
    return {**summary, "standing": list(standing(summary))}


def markdown(summary: Entry) -> str:
    """``segment.md``: what was measured, how, and the tables."""
    data, how = summary["data"], summary["settings"]
    lines = [
        f"# Where models look: {data['name']}",
        "",
        f"{data['reported']} images reported, {data['held_out']} others held out to choose one threshold a method; the object "
        f"covers {100 * data['object_share']:.1f} % of a picture on average. Weights: {how['trained_on']}. "
        f"Scales (shorter side): {'; '.join(f'{name} {scales}' for name, scales in how['scales'].items())}. Seed {how['seed']}.",
        "",
        *(f"- {line}" for line in summary["standing"]),
        "",
        "![Jaccard index and average precision of every map](figures/jaccard.png)",
        "",
        *plain_table(
            ["model", "map", "Jaccard, Otsu", f"Jaccard, upper {100 * (1 - how['quantile']):.0f} %", "Jaccard, fitted", "precision", "recall",
             "average precision", "pointing", "mass on object"],
            [[entry["model"], entry["method"] + (" *" if entry["headline"] and entry["model"] != FLOOR else ""),
              *(interval(entry[name]) for name in ("jaccard_otsu", "jaccard_quantile", "jaccard_threshold", "precision_otsu",
                                                   "recall_otsu", "average_precision", "pointing", "mass"))]
             for entry in summary["methods"]],
        ),
        "",
        "\\* what a model is judged by, chosen beforehand; its prior is that map's mean over the held-out images, the same for "
        "every image. Precision and recall are those of Otsu's threshold. 95 % intervals.",
        *_mass_section(summary),
        *_robust_section(summary),
        *_comparison_section(summary),
        *_method_section(how),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _mass_section(summary: Entry) -> list[str]:
    if not summary["attention_mass"]:
        return []
    rows = [
        [entry["model"], entry["level"], interval(entry["mass"]), interval(entry["object_share"]), interval(entry["ratio"])]
        for entry in summary["attention_mass"]
    ]  # fmt: skip
    trend = [
        f"- {it['model']}: {it['higher']} minus {it['lower']} {it['difference']:+.3f} [{it['low']:+.3f}, {it['high']:+.3f}], "
        f"p {it['p_holm']:.2g}"
        for it in summary["level_trend"]
    ]
    heads = ["model", "level", "attention on the object", "object's share", "ratio"]
    figure = "![Attention on the object by level](figures/attention-mass.png)"
    return ["", "## Which level looks at the object", "", figure, "", *plain_table(heads, rows), "", *trend]


def _robust_section(summary: Entry) -> list[str]:
    if not summary["robustness"]:
        return []
    rows = [
        [entry["model"], entry["method"], point["eps"], interval(point[HEADLINE]), interval(point["change"], "difference"),
         interval(point["average_precision"]), interval(point["mass"]), interval(point["fooling_rate"])]
        for entry in summary["robustness"] for point in entry["points"]
    ]  # fmt: skip
    heads = ["model", "map", "eps", "Jaccard, Otsu", "change", "average precision", "mass on object", "fooling rate"]
    how = summary["settings"]
    said = (
        f"{how['attack']} on the class the model predicts, run to its last step, on {summary['robustness'][0]['points'][0]['n']} "
        "of the reported images."
    )
    figure = "![Jaccard index over the radius](figures/jaccard-eps.png)"
    return ["", "## Under attack", "", said, "", figure, "", *plain_table(heads, rows)]


def _comparison_section(summary: Entry) -> list[str]:
    rows = [
        [
            _name(it["a"]),
            _name(it["b"]),
            COMPARED[it["measure"]],
            interval(it, "difference"),
            f"{it['p_holm']:.2g}",
        ]
        for it in summary["comparisons"]
    ]
    return ["", "## Compared on the same images", "", *plain_table(["a", "b", "measure", "a - b", "p (Holm)"], rows)]


def _method_section(how: Entry) -> list[str]:
    """How everything was measured, for a reader who has only this page."""
    return [
        "",
        "## How it was measured",
        "",
        "- An image is resized so that its shorter side is the scale, extended by reflection to a multiple of 16, and the map "
        "upsampled bilinearly to the image, the extension cut off; maps and logits are averaged over the scales that do "
        "not enlarge the image.",
        "- `product` and `mean` combine the last two levels, `product_all` all three. That the paper multiplies two levels is "
        "recollection; the others are ours. `cam`: the activation map of the predicted class; `gradcam` and `gradient`: "
        "saliency of the predicted class.",
        f"- Otsu's threshold; the pixels at or above the {how['quantile']} quantile; one threshold a method, fitted on held-out images. "
        "A constant map marks the whole picture.",
        f"- Floors: the whole picture; a Gaussian in the middle, a standard deviation of {how['gaussian_width']:.2f} of each side; spectral "
        "residual (Hou & Zhang 2007) and fine-grained saliency (Montabone & Soto 2010) by OpenCV. `prior`: see above.",
        "- Pointing game: the highest pixel is on the object, without a margin. Intervals: Student's t over images, Wilson's for "
        "hits and fooling rates, paired bootstrap for differences, bootstrap for ratios. p: Wilcoxon's signed-rank test.",
    ]


def _name(entry: Entry) -> str:
    return f"{entry['model']} {entry['method']}"


def interval(entry: Entry, key: str = "mean") -> str:
    """A number with its interval, as tables print it."""
    if entry["low"] is None:
        return f"{entry[key]:.3f}"
    return f"{entry[key]:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


