"""A finished sweep handed to the tool where a team keeps its runs.

What is written comes from the summary and the files of the report, so an export needs no torch, can be made at any time
after the sweep, and cannot slow it down or break it. One module serves one tool.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustatt.eps import parse_radius
from robustatt.errors import InputError, did_you_mean, first_line
from robustatt.results.columns import kind_of
from robustatt.results.summary import Summary

TARGETS = ("tensorboard", "mlflow", "wandb")
"""Where a sweep can go: each needs the package of its name, which is an extra of this project."""

MEASURES = ("accuracy", "ci_low", "ci_high", "worst_case_accuracy", "fooling_rate")
ARTIFACTS = ("summary.json", "plan.toml", "report.html", "tables/*", "figures/*.png")


@dataclass(frozen=True)
class ExportedSeries:
    """One curve: whose it is, what it shows, and its values by step; names are as every tool takes them."""

    model: str
    attack: str
    measure: str
    points: tuple[tuple[int, float], ...]

    @property
    def name(self) -> str:
        """The measure first, so that tools group by it."""
        return f"{self.measure}/{self.model}/{self.attack}"


@dataclass(frozen=True)
class Export:
    """What is handed over: a title, the curves, facts to filter runs by, and files worth keeping beside them.

    A step is ``step_unit`` of the pixel range: 1/255 if all radii are whole numbers of that.
    """

    title: str
    series: tuple[ExportedSeries, ...]
    facts: Mapping[str, str]
    files: tuple[Path, ...]
    step_unit: str
    digest: str
    """Of the summary: the same sweep exported twice has the same."""


def export(directory: Path, summary: Summary, target: str, folder: Path) -> str:
    """Hand the sweep in `directory` to a tool; what is local is written into `folder`. Returns what to do next.

    Raises InputError if the tool is unknown, its package is missing, or there is nothing to hand over.
    """
    if target not in TARGETS:
        raise InputError(f"--to {target!r}: {did_you_mean(target, TARGETS)}")
    if not summary.curves:
        raise InputError(f"{directory}: no results to export yet: run or resume the sweep")
    try:
        importlib.import_module(target)
    except ImportError:
        raise InputError(f"--to {target} needs a package that is not here: pip install 'robustatt[{target}]'") from None
    module = importlib.import_module(f"robustatt.export.{target}")
    try:
        said: str = module.write(collect(directory, summary), folder)
    except InputError:
        raise
    except Exception as problem:  # another program's client may fail in any way: no server, no login, no space
        reason = first_line(problem)
        raise InputError(f"--to {target} failed: {reason}") from problem
    return said


def collect(directory: Path, summary: Summary) -> Export:
    """Everything a tool is given of a sweep."""
    radii = [parse_radius(point.eps) for curve in summary.curves for point in curve.points]
    parts = math.lcm(*((radius * 255).denominator for radius in radii))
    text = json.dumps(summary.as_dict(), sort_keys=True, default=str)
    models = [entry.name for entry in summary.plan.models]
    known = tool_names([name for rows in (summary.curves, summary.drift) for row in rows for name in (row.model, row.attack)])
    series = (*_curves(summary, parts), *_drift(summary, parts))
    return Export(
        title=f"{', '.join(models)} on {summary.plan.data.name}",
        series=tuple(replace(one, model=known[one.model], attack=known[one.attack]) for one in series),
        facts=dict(_facts(summary)),
        files=tuple(path for pattern in ARTIFACTS for path in sorted(directory.glob(pattern)) if path.is_file()),
        step_unit=f"1/{255 * parts}",
        digest=hashlib.sha256(text.encode()).hexdigest()[:32],
    )


def _curves(summary: Summary, parts: int) -> Iterator[ExportedSeries]:
    for curve in summary.curves:
        for measure in MEASURES:
            name = f"accuracy_{measure}" if measure.startswith("ci_") else measure
            points = [(_step(point.eps, parts), getattr(point, measure)) for point in curve.points]
            yield ExportedSeries(curve.model, curve.attack, name, tuple(sorted(points)))


def _drift(summary: Summary, parts: int) -> Iterator[ExportedSeries]:
    """Attention and saliency under measures of their own, so that no tool draws them into one chart."""
    groups: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in summary.drift:
        level = row.level
        measure = f"{kind_of(level)}_drift_{row.metric}/{plain(level)}/{row.group}"
        key = (row.model, row.attack, measure)
        groups.setdefault(key, []).append((_step(row.eps, parts), math.nan if row.mean is None else row.mean))
    for key, points in groups.items():
        yield ExportedSeries(*key, tuple(sorted(points)))


def _step(eps: str, parts: int) -> int:
    return int(parse_radius(eps) * 255 * parts)


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    plan = summary.plan
    yield "models", ", ".join(entry.name for entry in plan.models)
    yield "attacks", ", ".join(entry.name for entry in plan.attacks)
    yield "data", plan.data.name
    for name, value in plan.as_dict().items():
        if name in ("seed", "evaluation"):
            yield name, str(value)
    yield "images", str(max(point.n for curve in summary.curves for point in curve.points))
    yield "health_warnings", ", ".join(sorted({warning.code for warning in summary.health})) or "none"
    for name, value in summary.provenance.as_dict().items():
        if isinstance(value, str | int | float):
            yield name, str(value)


def plain(name: str) -> str:
    """A name of the user's with nothing in it that a tool would refuse or take for a path."""
    return re.sub(r"[^A-Za-z0-9_.\- ]", "_", name).strip(". ") or "_"


def tool_names(names: Sequence[str]) -> dict[str, str]:
    """Each name in plain form; two that would become the same are told apart by a number."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        wanted, number = plain(name), 1
        while (again := wanted if number == 1 else f"{wanted}-{number}") in found.values():
            number += 1
        found[name] = again
    return found
