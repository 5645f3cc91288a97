"""The form of summary.json, checked where it is read: whoever edits the file by hand gets a line that names the place.

Only what readers rely on is asked for; other keys may stand beside it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from robustatt.eps import parse_radius
from robustatt.errors import InputError


def _is_radius(text: str) -> str:
    try:
        parse_radius(text)
    except InputError as problem:
        raise ValueError(str(problem)) from None
    return text


Radius = Annotated[str, AfterValidator(_is_radius)]
Share = Annotated[float, Field(ge=0, le=1)]
Change = Annotated[float, Field(ge=-1, le=1)]
Count = Annotated[int, Field(ge=0)]
Number = float | None


class _Row(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Named(_Row):
    name: str


class _Data(_Row):
    name: str | None = None
    split: str | None = None
    n: Count | None = None
    classes: list[str] = []


class _Plan(_Row):
    models: list[_Named | str] = []
    attacks: list[_Named | str] = []
    eps: list[Radius] = []
    data: _Data | str | None = None


class _Point(_Row):
    eps: Radius
    n: Annotated[int, Field(ge=1)]
    accuracy: Share
    ci_low: Share
    ci_high: Share
    worst_case_accuracy: Share
    fooling_rate: Share
    broken_by: dict[str, Count] = {}


class _Curve(_Row):
    model: str
    attack: str
    norm: str = "linf"
    points: Annotated[list[_Point], Field(min_length=1)]
    distances: dict[str, dict[str, float]] = {}


class _Drift(_Row):
    model: str
    attack: str
    level: str
    metric: str
    eps: Radius
    group: str
    n: Count
    mean: Number
    ci_low: Number
    ci_high: Number


class _Area(_Row):
    model: str
    attack: str
    level: str
    eps: Radius
    headline: bool
    auc: Share
    ci_low: Share
    ci_high: Share
    n_fooled: Count
    n_held: Count


class _Difference(_Row):
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


class _Confusion(_Row):
    model: str
    attack: str
    eps: Radius
    n_fooled: Count
    flows: list[Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=3, max_length=3)]]


class _Doubt(_Row):
    code: str
    message: str
    model: str | None = None
    attack: str | None = None
    evidence: dict[str, Any] = {}


class _Summary(_Row):
    plan: _Plan = _Plan()
    provenance: dict[str, Any] = {}
    curves: list[_Curve] = []
    drift: list[_Drift] = []
    drift_predicts_fooling: list[_Area] = []
    differences: list[_Difference] = []
    confusion: list[_Confusion] = []
    health: list[_Doubt] = []


def check_form(summary: Mapping[str, Any], where: str) -> None:
    """Raise InputError, naming the first place that is not as it should be."""
    try:
        _Summary.model_validate(summary)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        said = first["msg"].replace("\n", " ")
        raise InputError(f"{where} is not a summary: {place}: {said}; run the sweep again to rewrite it") from None
