"""Which of all that a network computes are its levels, and what they are called: by themselves, or by a pattern."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustatt.attention.listening import Place
from robustatt.attention.placement import Placement, Tokens
from robustatt.attention.survey import Found, Survey
from robustatt.errors import InputError
from robustatt.results.columns import ROLLOUT

NONE = "none"
GATE = "gate"  # of the network's own forward, which has no submodule's name
MAX_SHOWN = 4


@dataclass(frozen=True)
class Level:
    """A map: its name, where it comes from, and where its positions are. `output` is that of a submodule's n-th call.

    `heads` are those that stand in the batch, `head_count` all that the weights have.
    """

    name: str
    place: Place
    placement: Placement
    heads: int = 1
    output: bool = False
    head_count: int = 1


@dataclass(frozen=True)
class Levels:
    """The levels of a network in the order of depth; `rollout` are the places multiplied to one more, the last."""

    chosen: tuple[Level, ...] = ()
    rollout: tuple[Level, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the levels are called."""
        return (*(level.name for level in self.chosen), *((ROLLOUT,) if self.rollout else ()))


def by_themselves(survey: Survey, prefix: str) -> Levels:
    """Transformer blocks and their rollout; of a network that has none, attention without heads and gates."""
    blocks = _blocks(survey)
    if blocks:
        return Levels(tuple(blocks), _rollout(survey, blocks))
    single = [entry for entry in survey.found if entry.placement is not None and not _is_loose_softmax(entry)]
    return Levels(tuple(_numbered((entry.place.module.removeprefix(prefix) or GATE, entry) for entry in single)))


def by_pattern(survey: Survey, prefix: str, pattern: str, label: str) -> Levels:
    """The levels under submodules whose name, or that are themselves of a name, that the glob fits.

    Raises:
        InputError: nothing is of that name, or nothing of it has a map.
    """
    blocks = _blocks(survey)
    rolled = _rollout(survey, blocks)
    matched = [name for name in survey.outputs if name and fnmatch.fnmatchcase(name.removeprefix(prefix), pattern)]
    chosen = [level for level in blocks if fnmatch.fnmatchcase(level.name, pattern) or _inside(level.place.module, matched)]
    heard = {level.place for level in blocks}
    taken: list[str] = []
    others: list[tuple[str, Found]] = []
    for name in sorted(matched, key=lambda name: name.count(".")):  # what a submodule has goes before what its parts have
        if _inside(name, taken):
            continue
        inside = [entry for entry in survey.found if _inside(entry.place.module, [name]) and entry.placement is not None]
        single = [(name.removeprefix(prefix), entry) for entry in inside if entry.place not in heard]
        outputs = [] if inside else _outputs(survey, name, prefix)
        others += single
        chosen += outputs
        taken += [name] if inside or outputs else []
    chosen += _numbered(sorted(others, key=lambda pair: survey.found.index(pair[1])))
    rollout = rolled if rolled and fnmatch.fnmatchcase(ROLLOUT, pattern) else ()
    if chosen or rollout:
        return Levels(tuple({level.place: level for level in chosen}.values()), rollout)
    known = Levels(tuple(blocks), rolled).names
    raise InputError(f"model {label!r}: {_why_none(survey, prefix, pattern, matched, known)}")


def _blocks(survey: Survey) -> list[Level]:
    """Attention with heads, numbered by depth."""
    found = [entry for entry in survey.found if entry.kind == "attention" and not entry.alone]
    return [
        Level(f"block{number + 1}", entry.place, entry.placement, entry.heads, head_count=entry.head_count)
        for number, entry in enumerate(found)
        if entry.placement is not None
    ]


def _rollout(survey: Survey, blocks: Sequence[Level]) -> tuple[Level, ...]:
    """The blocks, if all of the network's attention is of the same tokens, each of which looks at all, one after the other."""
    by_place = {entry.place: entry for entry in survey.found}
    sizes = {by_place[level.place].square for level in blocks}
    every = sum(entry.kind == "attention" and not entry.alone for entry in survey.found)
    whole = len(blocks) == every > 1 and len(sizes) == 1 and None not in sizes and survey.in_sequence
    return tuple(blocks) if whole else ()


def _is_loose_softmax(entry: Found) -> bool:
    """A softmax over as many values as there are positions: by itself it may as well be one over classes."""
    return entry.kind == "gate" and len(entry.shape) == 2


def _numbered(named: Iterable[tuple[str, Found]]) -> list[Level]:
    """Levels with the names given; the second of a name gets ``#2``."""
    levels: list[Level] = []
    seen: dict[str, int] = {}
    for name, entry in named:
        assert entry.placement is not None
        seen[name] = seen.get(name, 0) + 1
        shown = name if seen[name] == 1 else f"{name}#{seen[name]}"
        levels.append(Level(shown, entry.place, entry.placement, entry.heads))
    return levels


def _outputs(survey: Survey, name: str, prefix: str) -> list[Level]:
    """The calls of a submodule that return a map."""
    levels = []
    for turn, output in enumerate(survey.outputs[name]):
        if output.is_map:
            shown = name.removeprefix(prefix) + (f"#{turn + 1}" if turn else "")
            grid = (output.shape[-2], output.shape[-1])
            levels.append(Level(shown, Place(name, turn), Tokens(0, grid, of_class=False), output=True))
    return levels


def _inside(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _why_none(survey: Survey, prefix: str, pattern: str, matched: Sequence[str], levels: Sequence[str]) -> str:
    if matched:
        shapes = list(dict.fromkeys(f"{name.removeprefix(prefix)} {survey.outputs[name][0]}" for name in matched))
        more = f" and {len(shapes) - MAX_SHOWN} more" if len(shapes) > MAX_SHOWN else ""
        return (
            f"--attention {pattern!r}: no submodule of that name has a map, they return {', '.join(shapes[:MAX_SHOWN])}{more}: "
            "values of 0 or more as (n, 1, h, w) or (n, h, w), or a softmax over positions, are needed"
        )
    names = [*levels, *(name.removeprefix(prefix) for name in survey.outputs if name)]
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
    said = (
        f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    )
    return f"--attention {pattern!r}: no level or submodule is of that name; {said}"
