"""What a run found, typed: the content of summary.json. Built once, by `robustatt.results.aggregate.summarise`.

Everything that shows or judges a run reads this. Keys that are not declared here may stand in the file and are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from robustatt.attack.recipe import NO_ADVERSARIES, UNGATED
from robustatt.eps import NORM_TITLES
from robustatt.errors import InputError, first_mistake
from robustatt.results import provenance, statistics
from robustatt.results.part import Change, ClassIndex, Count, Part, Radius, Share
from robustatt.results.plan_info import PlanInfo

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


class Point(Part):
    """One radius of a curve."""

    eps: Radius
    n: Annotated[int, Field(ge=1)]
    accuracy: Share
    ci_low: Share
    ci_high: Share
    worst_case_accuracy: Share
    fooling_rate: Share
    broken_by: dict[str, Count] = {}

    def interval(self, quantity: str) -> tuple[float, float]:
        """The 95 % Wilson interval of accuracy, worst_case_accuracy or fooling_rate."""
        if quantity == "accuracy":
            return self.ci_low, self.ci_high
        low, high = statistics.wilson(np.array([round(getattr(self, quantity) * self.n)]), np.array([self.n]))
        return float(low[0]), float(high[0])


class Curve(Part):
    """Accuracy of one model under one attack by radius, the clean point first."""

    model: str
    attack: str
    norm: str = "linf"
    points: Annotated[list[Point], Field(min_length=1)]
    distances: dict[str, dict[str, float]] = {}

    @property
    def unbounded(self) -> bool:
        """Whether the attack has no norm and so no radius."""
        return self.norm == "none"


class TransferCurve(Curve):
    """Accuracy of one model on examples that the attack crafted on another one, or on the model itself, at full strength."""

    surrogate: str


class DriftRow(Part):
    """Mean drift of one metric at one level and radius, of all examples or of those fooled or held."""

    model: str
    attack: str
    level: str
    kind: str = ""
    metric: str
    eps: Radius
    group: str
    n: Count
    mean: float | None
    ci_low: float | None
    ci_high: float | None


class AreaRow(Part):
    """How well drift at one level and radius tells fooled examples from held ones: the ROC area."""

    model: str
    attack: str
    level: str
    kind: str = ""
    eps: Radius
    headline: bool
    auc: Share
    ci_low: Share
    ci_high: Share
    n_fooled: Count
    n_held: Count


class FullStrength(Part):
    """Drift under attacks that run to their last step at every radius, of a sample of `n` examples for each model."""

    n: Count
    drift: list[DriftRow] = []
    drift_predicts_fooling: list[AreaRow] = []


class Difference(Part):
    """Accuracy of a model minus that of its baseline on the same examples."""

    model: str
    baseline: str
    attack: str
    eps: Radius
    n: Annotated[int, Field(ge=1)]
    difference: Change
    ci_low: Change
    ci_high: Change
    only_model: Count
    only_baseline: Count
    p: Share
    p_holm: Share


class CorruptionMean(Part):
    """One model over corruptions and severities, as a mean over `n` images.

    `difference` is accuracy minus the baseline's on the same images. `mce` is in per cent, the baseline's being 100; it is left
    out where the baseline makes no mistake under some corruption.
    """

    model: str
    n: Annotated[int, Field(ge=1)]
    corruptions: list[str]
    accuracy: Share
    ci_low: Share
    ci_high: Share
    baseline: str | None = None
    difference: Change | None = None
    difference_low: Change | None = None
    difference_high: Change | None = None
    mce: float | None = None
    mce_low: float | None = None
    mce_high: float | None = None


class Confusion(Part):
    """Where the fooled examples went: `flows` of [true class, predicted class, count], most frequent first."""

    model: str
    attack: str
    eps: Radius
    n_fooled: Count
    flows: list[Annotated[list[ClassIndex], Field(min_length=3, max_length=3)]]


class HealthNote(Part):
    """A health warning as the file holds it: `message` is all of it, `advice` its last part."""

    code: str
    message: str
    model: str | None = None
    attack: str | None = None
    evidence: dict[str, Any] = {}
    advice: str = ""


class Provenance(Part):
    """Where the numbers come from; what drift at full strength cost is counted apart, and what transfer did."""

    command: str = ""
    versions: dict[str, str] = {}
    hardware: dict[str, str | int] = {}
    git: str = ""
    finished: str = ""
    seconds_this_run: float | None = None
    seconds: float | None = None
    gradients: int | None = None
    forwards: int | None = None
    drift_seconds: float | None = None
    drift_gradients: float | None = None
    drift_forwards: float | None = None
    transfer_seconds: float | None = None
    transfer_gradients: float | None = None
    transfer_forwards: float | None = None

    @classmethod
    def now(cls, hardware: dict[str, str | int], **more: Any) -> Self:
        """Of numbers computed by this command on that hardware (see `robustatt.models.device.hardware`)."""
        return cls(
            command=provenance.command(), versions=provenance.versions(), hardware=hardware, git=provenance.git_state(), **more
        )


class Stopped(Part):
    """Why a sweep in rounds ended, after how many seconds: the time was up, intervals were narrow enough, the gate had its verdict,
    or all examples were done."""

    reason: Literal["time", "until", "gate", "all"]
    seconds: float


class Summary(Part):
    """The whole of summary.json.

    Not in the file: `integrity` is what does not agree with the records, a line each; `unfinished` says of a sweep that is not
    whole how much of it is there.
    """

    version: int = Field(default=SCHEMA, alias="schema")
    plan: PlanInfo = PlanInfo()
    provenance: Provenance = Provenance()
    curves: list[Curve] = []
    drift: list[DriftRow] = []
    drift_predicts_fooling: list[AreaRow] = []
    differences: list[Difference] = []
    confusion: list[Confusion] = []
    health: list[HealthNote] = []
    corruption_means: list[CorruptionMean] = []
    full_strength: FullStrength | None = None
    transfer: list[TransferCurve] = []
    stopped: Stopped | None = None
    integrity: list[str] = Field(default=[], exclude=True)
    unfinished: str = Field(default="", exclude=True)

    def measured_drift(self) -> list[DriftRow]:
        """Drift at full strength, and for attacks that were not run so, at the radii that the sweep attacked."""
        return self._strongest("drift")

    def measured_areas(self) -> list[AreaRow]:
        """How well drift predicts fooling, at full strength where it was measured so."""
        return self._strongest("drift_predicts_fooling")

    def _strongest(self, name: str) -> list[Any]:
        strong = [] if self.full_strength is None else getattr(self.full_strength, name)
        measured = set() if self.full_strength is None else {(row.model, row.attack) for row in self.full_strength.drift}
        return [*strong, *(row for row in getattr(self, name) if (row.model, row.attack) not in measured)]

    def at_full_strength(self, attack: str) -> bool:
        """Whether an attack's drift is of images that took all its steps at every radius, as single steps always do."""
        measured = self.full_strength is not None and any(row.attack == attack for row in self.full_strength.drift)
        asked = self.plan.attack(attack)
        return (
            measured
            or asked.category in ("single-step", *NO_ADVERSARIES)
            or (asked.recipe is not None and asked.recipe.to_the_end)
        )

    def is_adversary(self, attack: str) -> bool:
        """Whether an attack wants mistakes: not a control, such as random noise, nor one that only moves attention."""
        return self.plan.attack(attack).category not in NO_ADVERSARIES

    def is_gated(self, attack: str) -> bool:
        """Whether a gate holds accuracy under it: under every attack that wants mistakes, and under corruptions."""
        return self.plan.attack(attack).category not in UNGATED

    def norm_of(self, attack: str) -> str:
        """The norm of an attack's curves."""
        return next((curve.norm for curve in self.curves if curve.attack == attack), self.plan.attack(attack).norm)

    def curve_names(self) -> tuple[list[str], list[str]]:
        """Models and attacks of the curves, each in order of appearance."""
        models = dict.fromkeys(curve.model for curve in self.curves)
        return list(models), list(dict.fromkeys(curve.attack for curve in self.curves))

    def norms(self) -> list[str]:
        """The norms that have an axis of radii, in the order of `NORM_TITLES`."""
        present = {curve.norm for curve in self.curves}
        return [norm for norm in NORM_TITLES if norm in present]

    def of_norm(self, norm: str) -> Summary:
        """The attacks of one norm alone: norms share no axis, and none is stronger than one of another."""
        return self.without({curve.attack for curve in self.curves if curve.norm != norm})

    def bounded(self) -> Summary:
        """Without the attacks that have no norm, for everything that has an axis of radii."""
        return self.without({curve.attack for curve in self.curves if curve.unbounded})

    def without(self, attacks: set[str]) -> Summary:
        """Without some attacks."""

        def kept(rows: Sequence[Any]) -> list[Any]:
            return [row for row in rows if row.attack not in attacks]

        plan = self.plan.model_copy(update={"attacks": [entry for entry in self.plan.attacks if entry.name not in attacks]})
        names = [
            "curves",
            "drift",
            "drift_predicts_fooling",
            "differences",
            "confusion",
            *(["transfer"] if self.transfer else []),
        ]
        strength = self.full_strength
        if strength is not None:
            own = {name: kept(getattr(strength, name)) for name in ("drift", "drift_predicts_fooling")}
            strength = strength.model_copy(update=own)
        return self.model_copy(
            update={"plan": plan, "full_strength": strength, **{name: kept(getattr(self, name)) for name in names}}
        )

    @classmethod
    def parse(cls, content: Mapping[str, object], where: str) -> Self:
        """From the file's content; InputError that names the first place that is not as it should be."""
        try:
            return cls.model_validate(content)
        except ValidationError as problem:
            place, said = first_mistake(problem)
            raise InputError(
                f"{where} is not a summary: {place or 'the whole'}: {said}; run the sweep again to rewrite it"
            ) from None


def curve_frame(summary: Summary, model: str, attack: str) -> pd.DataFrame:
    """One curve as a table, columns in the order of a point of the summary; InputError if it is unknown."""
    for curve in summary.curves:
        if (curve.model, curve.attack) == (model, attack):
            columns = ["eps", "accuracy", "ci_low", "ci_high", "worst_case_accuracy", "fooling_rate", "n"]
            import pandas as pd

            return pd.DataFrame([point.as_dict() for point in curve.points], columns=columns)
    known = ", ".join(f"{curve.model} under {curve.attack}" for curve in summary.curves)
    raise InputError(f"no curve of {model!r} under {attack!r}; there are: {known or 'none'}")
