"""Many results folders as one board: their records read, the data compared, the same model of several runs put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from robustatt.attack.recipe import NO_ADVERSARIES
from robustatt.engine.run_outcomes import RunOutcomes, read_run
from robustatt.eps import NORM_TITLES, UNITS, format_radius, parse_grid
from robustatt.errors import InputError, did_you_mean
from robustatt.plan import BoundPlan
from robustatt.results.board import Attacked, Board, DataFacts, Entry, common_radius, norm_board
from robustatt.results.published import PublishedRow

MAX_NAMED = 3
"""Folders that a refusal names."""


def make_board(
    folders: Sequence[Path],
    *,
    norm: str | None = None,
    data: str | None = None,
    eps: Sequence[str] = (),
    published: Sequence[PublishedRow] = (),
    progress: Callable[[Path], None] = lambda _: None,
) -> Board:
    """The board of some results folders; nothing in them is changed.

    Args:
        norm, data: only attacks of this norm, only runs on this data.
        eps: ``RADIUS``, or ``NORM=RADIUS`` where there are several norms; else the radius that most models have.
        published: rows to show beside them, where data, norm and radius are the same.
        progress: told of each folder before it is read.

    Raises:
        InputError: a folder cannot be read, runs are not of the same images, or nothing is left to show.
    """
    if norm is not None and norm not in NORM_TITLES:
        raise InputError(f"--norm {norm!r}: {did_you_mean(norm, NORM_TITLES)}")
    distinct = {folder.resolve(): folder for folder in reversed(folders)}
    bound = {folder: _bound(folder) for folder in reversed(distinct.values())}
    left_out = {} if data is None else {folder: plan for folder, plan in bound.items() if data not in _data_names(plan)}
    bound = {folder: plan for folder, plan in bound.items() if folder not in left_out}
    if not bound:
        raise InputError(
            f"--data {data!r}: no run is on it: {did_you_mean(str(data), {plan.plan.data for plan in left_out.values()})}"
        )
    require_same_images(bound)
    runs = []
    for folder, plan in bound.items():
        progress(folder)
        runs.append(read_run(folder, plan))
    _require_same_labels(runs)
    entries = [entry for entry in _entries(runs) if norm in (None, entry.norm)]
    present = [name for name in NORM_TITLES if any(entry.norm == name for entry in entries)]
    if not present:
        what = f"in {NORM_TITLES[norm]}" if norm else "with a radius"
        raise InputError(f"board: no attack {what} was run in these folders: nothing to rank")
    radii = _radii(eps, present)
    facts = _facts(next(iter(bound.values())))
    here = [row for row in published if _same_set(row.data, facts.name)]
    boards = []
    for name in present:
        mine = [entry for entry in entries if entry.norm == name]
        radius = radii.get(name, common_radius(mine))
        boards.append(norm_board(name, mine, radius, here))
        if not boards[-1].standings:
            measured = sorted({one for entry in mine for one in entry.radii})
            raise InputError(
                f"--eps {format_radius(radius, name)}: no run has this radius in {NORM_TITLES[name]}: "
                f"there are {', '.join(format_radius(one, name) for one in measured[:12])}{', ...' if len(measured) > 12 else ''}"
            )
    notes = _findings(runs)
    notes += [f"{folder}: left out, its data is {plan.plan.data}" for folder, plan in left_out.items()]
    shown = sum(len(board.published) for board in boards)
    if published and not shown:
        notes.append(f"none of {len(published)} published rows is of {facts.name} in a norm and at a radius shown here")
    return Board(facts, tuple(boards), tuple(notes), tuple(str(folder) for folder in bound))


def _findings(runs: Sequence[RunOutcomes]) -> list[str]:
    """What does not agree in the folders; the same of several folders in one line."""
    where: dict[str, list[str]] = {}
    for run in runs:
        for finding in run.findings:
            where.setdefault(finding, []).append(str(run.folder))
    return [
        f"{', '.join(folders[:MAX_NAMED])}{f' and {len(folders) - MAX_NAMED} more' if len(folders) > MAX_NAMED else ''}: {finding}"
        for finding, folders in where.items()
    ]


def _bound(folder: Path) -> BoundPlan:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder a sweep wrote (its --out)")
    return BoundPlan.read(folder)


def _data_names(plan: BoundPlan) -> tuple[str, str]:
    """The data as the plan names it, and without its folder."""
    return plan.plan.data, Path(plan.plan.data).name


def _same_set(published: str, ours: str) -> bool:
    one, other = ("".join(sign for sign in name.lower() if sign.isalnum()) for name in (published, ours))
    return one == other


def _facts(plan: BoundPlan) -> DataFacts:
    return DataFacts(plan.plan.data, plan.plan.split, plan.data_fingerprint, plan.examples)


def require_same_images(plans: Mapping[Path, BoundPlan]) -> None:
    """InputError unless all runs are of the same examples of the same data, which the hash of the data says; names the odd ones."""
    kinds = {folder: (plan.data_fingerprint, plan.examples) for folder, plan in plans.items()}
    usual = Counter(kinds.values()).most_common(1)[0][0]
    odd = [folder for folder, kind in kinds.items() if kind != usual]
    if not odd:
        return
    first = next(folder for folder, kind in kinds.items() if kind == usual)
    said = "; ".join(f"{folder} has {_described(plans[folder], plans[first])}" for folder in odd[:MAX_NAMED])
    more = f"; and {len(odd) - MAX_NAMED} more" if len(odd) > MAX_NAMED else ""
    names = {plan.plan.data for plan in plans.values()}
    remedy = (
        f"--data {plans[first].plan.data} takes the runs on it alone"
        if len(names) > 1
        else "leave them out, or sweep them again on the same images"
    )
    raise InputError(
        f"board: these runs are not of the same images: {first} has {_described(plans[first], plans[odd[0]])}; {said}{more}: {remedy}"
    )


def _described(plan: BoundPlan, other: BoundPlan) -> str:
    """The data of a run, and its hash where that is another one."""
    facts = _facts(plan)
    images = f"{facts.n:,} image{'' if facts.n == 1 else 's'} of {facts.name} {facts.split}"
    return images if facts.fingerprint == other.data_fingerprint else f"{images} (hash {facts.fingerprint[:8]})"


def _require_same_labels(runs: Sequence[RunOutcomes]) -> None:
    """The hashes stand in plan.toml, the labels in the records: InputError where those differ though these agree."""
    first = runs[0].outcomes[0]
    for run in runs:
        for outcomes in run.outcomes[:1]:
            mine, theirs = first.align(outcomes)
            differ = int((first.label[mine] != outcomes.label[theirs]).sum())
            if differ:
                raise InputError(
                    f"board: the records of {run.folder} have other labels than those of {runs[0].folder} for {differ:,} images, though both name the same data: verify them"
                )


def _entries(runs: Sequence[RunOutcomes]) -> list[Entry]:
    """The models of all runs by norm; what was run against the same weights by several is one model."""
    found: dict[tuple[str, str], list[Attacked]] = {}
    names: dict[str, dict[str, str]] = {}
    codes: dict[str, dict[str, None]] = {}
    for run in runs:
        prints = {entry.name: key for entry, key in zip(run.bound.plan.models, run.bound.model_fingerprints, strict=True)}
        recipes = {recipe.name: recipe for recipe in run.bound.plan.attacks}
        for name, key in prints.items():
            names.setdefault(key, {}).setdefault(name, str(run.folder))
            mine = [note.code for note in run.warnings if note.model in (name, None)]
            codes.setdefault(key, {}).update(dict.fromkeys(mine))
        for outcomes in run.outcomes:
            recipe = recipes[outcomes.attack]
            if recipe.category not in NO_ADVERSARIES and not recipe.unbounded:
                attacked = Attacked(recipe.fingerprint(), str(run.folder), outcomes)
                found.setdefault((prints[outcomes.model], recipe.norm), []).append(attacked)
    titles = _titles(names)
    examples = runs[0].bound.examples
    return [
        Entry(titles[key], key, norm, examples, tuple(attacked), tuple(codes[key])) for (key, norm), attacked in found.items()
    ]


def _titles(names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What each model is called: its label, or labels, and its run where another model has the same."""
    titles = {key: " = ".join(labels) for key, labels in names.items()}
    often = Counter(titles.values())
    return {key: title if often[title] == 1 else f"{title} ({next(iter(names[key].values()))})" for key, title in titles.items()}


def _radii(texts: Sequence[str], norms: Sequence[str]) -> dict[str, Fraction]:
    """The radii that were asked for, by norm."""
    found = {}
    for text in texts:
        norm, sign, radius = text.rpartition("=")
        if not sign and len(norms) > 1:
            raise InputError(
                f"--eps {text}: there are attacks in {' and '.join(NORM_TITLES[name] for name in norms)}: say --norm {norms[0]}, or --eps {norms[0]}={text}"
            )
        norm = norm or norms[0]
        if norm not in norms:
            raise InputError(f"--eps {text!r}: {did_you_mean(norm, norms)}")
        grid = parse_grid(radius, UNITS[norm])
        if len(grid) != 1:
            raise InputError(f"--eps {text!r}: give one radius above 0, such as 8/255")
        found[norm] = grid[0]
    return found
