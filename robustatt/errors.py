"""Every error robustatt raises on purpose, with the exit code the command line gives it."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class RobustattError(Exception):
    """Base of all errors raised on purpose; the text is one line a user can act on."""

    exit_code = 3


class InputError(RobustattError):
    """The request cannot be met: says what, where and what would be right."""

    exit_code = 2


class NoSuchSplit(InputError):
    """The data is there but has no such part: a set without a test part, say."""


class ThreatModelViolation(RobustattError):
    """An attack returned an image outside the norm ball or outside [0, 1]."""


class NonFiniteLogits(RobustattError):
    """The model returned NaN or infinite logits, which are neither robust nor fooled."""


class TrainingDiverged(RobustattError):
    """The training loss became NaN or infinite."""


class TrainingPaused(RobustattError):
    """The time for a training is up after a whole epoch; the same request continues it."""

    exit_code = 0


class RunInterrupted(RobustattError):
    """A run stopped half way; the text says why, then what is safe on disk and how to go on, if anything is."""

    def __init__(self, reason: str, exit_code: int = 3, safe: str = "") -> None:
        super().__init__(f"{reason}. {safe}" if safe else reason)
        self.reason, self.exit_code = reason, exit_code


def warn_caller(message: str) -> None:
    """A warning that names the line outside this package from which it was called."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth)


def innermost(problem: BaseException) -> BaseException:
    """The exception that began it all: at the end of the chain of causes."""
    seen = {id(problem)}
    while True:
        earlier = problem.__cause__ or (None if problem.__suppress_context__ else problem.__context__)
        if earlier is None or id(earlier) in seen:
            return problem
        seen.add(id(earlier))
        problem = earlier


def first_line(problem: BaseException) -> str:
    """The first line of what an exception says; its type if it says nothing."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


def first_mistake(problem: ValidationError) -> tuple[str, str]:
    """Where pydantic's first complaint is, such as ``models.0.name``, and what it says."""
    error = problem.errors()[0]
    return ".".join(str(part) for part in error["loc"]), error["msg"].removeprefix("Value error, ").replace("\n", " ")


def typed_line(problem: BaseException) -> str:
    """The type and first line of an exception, such as ``KeyError: 'image'``."""
    name, said = type(problem).__name__, first_line(problem)
    return name if said == name else f"{name}: {said}"


def describe(problem: BaseException) -> str:
    """The type and first line of the innermost cause of an exception."""
    return typed_line(innermost(problem))


@contextmanager
def raised_by(what: str) -> Iterator[None]:
    """What external code raises inside becomes an InputError of one line that names it, such as "model 'net'"."""
    try:
        yield
    except (RobustattError, OSError):
        raise
    except Exception as problem:
        raise InputError(f"{what} raised {describe(problem)}") from problem


@contextmanager
def said_of(where: str) -> Iterator[None]:
    """An InputError raised inside says its place in front, such as "plan sweep.toml"."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest valid name if one is near, and the valid names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}Known: {', '.join(names)}"
