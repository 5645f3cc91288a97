"""``segment.md``: what was measured, how, and the tables."""

from __future__ import annotations

from robustatt.report.markdown import plain_table
from robustatt.studies.segment.result import COMPARED, SegmentSettings, SegmentSummary, interval

COLUMNS = {
    "jaccard_otsu": "Jaccard, Otsu", "jaccard_quantile": "Jaccard, upper {:.0f} %", "jaccard_threshold": "Jaccard, fitted", "jaccard_area": "Jaccard, area",
    "precision_otsu": "precision", "recall_otsu": "recall", "average_precision": "average precision",
    "pointing": "pointing", "mass": "mass on object",
}  # fmt: skip


def markdown(summary: SegmentSummary) -> str:
    """The whole page."""
    data, how = summary.data, summary.settings
    heads = ["model", "map", *(name.format(100 * (1 - how.quantile)) for name in COLUMNS.values())]
    rows = [[it.model, it.starred, *(it.by(name).text() for name in COLUMNS)] for it in summary.methods]
    lines = [
        f"# Where models look: {data.name}",
        "",
        f"{data.reported} images reported, {data.held_out} others held out to choose one threshold a method; the object "
        f"covers {100 * data.object_share:.1f} % of a picture on average. Weights: {how.trained_on}. "
        f"Scales (shorter side): {'; '.join(f'{name} {scales}' for name, scales in how.scales.items())}. Seed {how.seed}.",
        "",
        *(f"- {line}" for line in summary.standing),
        "",
        "![Jaccard index and average precision of every map](figures/jaccard.png)",
        "",
        "![Mean Jaccard index over thresholds](figures/thresholds.png)",
        "",
        *plain_table(heads, rows),
        "",
        "\\* what a model is judged by, chosen beforehand; its prior is that map's mean over the held-out images, the same for "
        "every image. Precision and recall are those of Otsu's threshold. 95 % intervals.",
        *_mass_section(summary),
        *_robust_section(summary),
        *_comparison_section(summary),
        *_method_section(how),
    ]
    return "\n".join(lines) + "\n"


def _mass_section(summary: SegmentSummary) -> list[str]:
    if not summary.attention_mass:
        return []
    rows = [[it.model, it.level, it.mass.text(), it.object_share.text(), it.ratio.text()] for it in summary.attention_mass]
    trend = [
        f"- {it.model}: {it.higher} minus {it.lower} {it.difference:+.3f} [{it.low:+.3f}, {it.high:+.3f}], p {it.p_holm:.2g}"
        for it in summary.level_trend
    ]
    heads = ["model", "level", "attention on the object", "object's share", "ratio"]
    figure = "![Attention on the object by level](figures/attention-mass.png)"
    return ["", "## Which level looks at the object", "", figure, "", *plain_table(heads, rows), "", *trend]


def _robust_section(summary: SegmentSummary) -> list[str]:
    if not summary.robustness:
        return []
    rows = [
        [it.model, it.method, point.eps, point.jaccard_otsu.text(), interval(*point.change.estimate),
         point.average_precision.text(), point.mass.text(), point.fooling_rate.text()]
        for it in summary.robustness for point in it.points
    ]  # fmt: skip
    heads = ["model", "map", "eps", "Jaccard, Otsu", "change", "average precision", "mass on object", "fooling rate"]
    said = (
        f"{summary.settings.attack} on the class the model predicts, run to its last step, on "
        f"{summary.robustness[0].points[0].n} of the reported images."
    )
    figure = "![Jaccard index over the radius](figures/jaccard-eps.png)"
    return ["", "## Under attack", "", said, "", figure, "", *plain_table(heads, rows)]


def _comparison_section(summary: SegmentSummary) -> list[str]:
    rows = [
        [str(it.a), str(it.b), COMPARED[it.measure], interval(*it.estimate), f"{it.p_holm:.2g}"] for it in summary.comparisons
    ]
    return ["", "## Compared on the same images", "", *plain_table(["a", "b", "measure", "a - b", "p (Holm)"], rows)]


def _method_section(how: SegmentSettings) -> list[str]:
    """How everything was measured, for a reader who has only this page."""
    return [
        "",
        "## How it was measured",
        "",
        "- An image is resized so that its shorter side is the scale, extended by reflection to a multiple of 16, and the map "
        "upsampled bilinearly to the image, the extension cut off; maps and logits are averaged over the scales that do "
        "not enlarge the image.",
        "- `product` and `mean` combine the last two levels (of a transformer its last block and its rollout, if it has one), "
        "`product_all` all levels. A network of several levels is judged by `product`. That the paper multiplies two levels is "
        "recollection; the others are ours. `cam`: the activation map of the predicted class; `gradcam` and `gradient`: "
        "saliency of the predicted class.",
        f"- Otsu's threshold; the pixels at or above the {how.quantile} quantile; one threshold a method, fitted on held-out images. "
        "A constant map marks the whole picture. Area: under the curve of the Jaccard index over thresholds from 0 to 1 of a map's range.",
        f"- Floors: the whole picture; a Gaussian in the middle, a standard deviation of {how.gaussian_width:.2f} of each side; spectral "
        "residual (Hou & Zhang 2007) and fine-grained saliency (Montabone & Soto 2010) by OpenCV. `prior`: see above.",
        "- Pointing game: the highest pixel is on the object, without a margin. Intervals: Student's t over images, Wilson's for "
        "hits and fooling rates, paired bootstrap for differences, bootstrap for ratios. p: Wilcoxon's signed-rank test.",
    ]
