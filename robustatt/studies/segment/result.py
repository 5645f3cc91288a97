"""segment.json, typed; `robustatt.studies.segment.aggregate` makes it of the images' rows."""

from __future__ import annotations

from pydantic import Field

from robustatt.results.part import Part
from robustatt.results.statistics import Estimate
from robustatt.results.summary import Provenance
from robustatt.studies.segment.floors import FLOOR

FILE, ROWS = "segment.json", "images.parquet"
HEADLINE = "jaccard_otsu"
COMPARED = {
    HEADLINE: "Jaccard (Otsu)",
    "jaccard_threshold": "Jaccard (fitted threshold)",
    "jaccard_area": "Jaccard (area over thresholds)",
    "average_precision": "average precision",
}
PRIOR = "prior"  # the mean, over the held-out images, of the map that a model is judged by
INTERVAL = "{:.3f} [{:.3f}, {:.3f}]"


def interval(value: float, low: float | None, high: float | None, form: str = INTERVAL) -> str:
    """A number with its interval, as tables print it; without, where there is none."""
    return form.partition(" ")[0].format(value) if low is None else form.format(value, low, high)


class Mean(Part):
    """A mean over images with its 95 % interval; a single image has none."""

    mean: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> list[float]:
        """Both ends of the interval, or nothing."""
        return [] if self.low is None or self.high is None else [self.low, self.high]

    def text(self, form: str = INTERVAL) -> str:
        """As tables print it."""
        return interval(self.mean, self.low, self.high, form)


class MapName(Part):
    """A map: of which model, by which method."""

    model: str
    method: str

    def __str__(self) -> str:
        return f"{self.model} {self.method}"

    @property
    def of_floor(self) -> bool:
        """Whether it knows nothing of any model."""
        return self.model == FLOOR


class MapScores(MapName):
    """A map on clean images by every measure of `robustatt.studies.segment.measures`."""

    kind: str
    headline: bool
    n: int
    jaccard_otsu: Mean
    jaccard_quantile: Mean
    jaccard_threshold: Mean
    precision_otsu: Mean
    precision_quantile: Mean
    precision_threshold: Mean
    recall_otsu: Mean
    recall_quantile: Mean
    recall_threshold: Mean
    jaccard_area: Mean
    average_precision: Mean
    mass: Mean
    pointing: Mean
    threshold: float

    def by(self, measure: str) -> Mean:
        """One of the measures."""
        found: Mean = getattr(self, measure)
        return found

    @property
    def starred(self) -> str:
        """The method, with a star if its model is judged by it."""
        return f"{self.method} *" if self.headline and not self.of_floor else self.method


class ThresholdCurve(MapName):
    """The mean Jaccard index of a map over thresholds, which are shares of its range; of the maps models are judged by, and floors."""

    thresholds: list[float]
    jaccard: list[float]


class PairedChange(Part):
    """A mean difference over the same images with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def estimate(self) -> Estimate:
        """All three."""
        return Estimate(self.difference, self.low, self.high)


class PairedTest(PairedChange):
    """The same with Wilcoxon's p-value, alone and after Holm's correction over its table."""

    p: float
    p_holm: float


class MapComparison(PairedTest):
    """Map a minus map b by one measure."""

    a: MapName
    b: MapName
    measure: str


class LevelMass(Part):
    """The share of a level's attention that is on the object, the object's share of the picture, and their ratio."""

    model: str
    level: str
    n: int
    mass: Mean
    object_share: Mean
    ratio: Mean


class LevelTrend(PairedTest):
    """Attention on the object at a network's highest level minus that at its lowest."""

    model: str
    lower: str
    higher: str


class AttackedPoint(Part):
    """A map at one radius; ``change``: its headline measure minus that of the same images when clean."""

    eps: str
    n: int
    jaccard_otsu: Mean
    jaccard_threshold: Mean
    jaccard_area: Mean
    average_precision: Mean
    mass: Mean
    pointing: Mean
    fooling_rate: Mean
    change: PairedChange


class AttackedMap(MapName):
    """A map over the radii, the clean one first, on the images that were attacked."""

    kind: str
    headline: bool
    points: list[AttackedPoint]


class MaskedData(Part):
    """How many images were used, held out to choose thresholds, and reported; the object's mean share of a picture."""

    name: str
    fingerprint: str
    n: int
    held_out: int
    reported: int
    object_share: float


class SegmentSettings(Part):
    """What decides the numbers besides models and data; scales by model."""

    trained_on: str
    scales: dict[str, list[int]]
    quantile: float
    gaussian_width: float
    seed: int
    attack: str | None
    eps: list[str]
    held_out_share: float


class SegmentModel(Part):
    """A model, and where its weights come from."""

    name: str
    spec: str
    source: str


class SegmentSummary(Part):
    """The whole of segment.json."""

    version: int = Field(alias="schema")
    data: MaskedData
    settings: SegmentSettings
    models: list[SegmentModel]
    methods: list[MapScores]
    comparisons: list[MapComparison]
    threshold_curves: list[ThresholdCurve]
    attention_mass: list[LevelMass]
    level_trend: list[LevelTrend]
    robustness: list[AttackedMap]
    standing: list[str]
    provenance: Provenance

    @property
    def judged(self) -> list[AttackedMap]:
        """Of the maps over the radii those that models are judged by."""
        return [entry for entry in self.robustness if entry.headline]
