"""The pytest fixture `robustness_reference`: holds a sweep in a user's own test against a reference file beside it.

pytest loads this wherever robustatt is installed, so nothing is imported before the fixture is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from robustatt.api import Result
    from robustatt.results.gate import CheckResult


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag that writes references instead of comparing with them."""
    parser.getgroup("robustatt").addoption(
        "--robustness-update",
        action="store_true",
        help="robustness_reference.check writes its reference files instead of comparing with them",
    )


class RobustnessReference:
    """What the fixture gives: `check` compares one result with one reference file."""

    def __init__(self, folder: Path, name: str, update: bool) -> None:
        self.folder, self.name, self.update = folder, name, update
        self._used: set[Path] = set()

    def check(
        self,
        result: Result,
        file: str | Path | None = None,
        *,
        max_drop: float = 1.0,
        alpha: float = 0.01,
        allow: Collection[str] = (),
        same_weights: bool = False,
    ) -> CheckResult | None:
        """Fail the test unless `result` is as good as the reference; see `robustatt.results.gate.check`.

        Args:
            result: of `robustatt.sweep`.
            file: the reference, relative to the test's folder. By default named after the test.
            max_drop: points of accuracy that may be lost at any radius.
            alpha: the chance of a false alarm over all points.
            allow: fields of the plan that may differ: "data", "attack", "eps", "seed", "evaluation".
            same_weights: other weights under the same label are a changed plan too.

        Returns:
            Every curve point with its verdict; None if `--robustness-update` wrote the file.
        """
        from robustatt.errors import RobustattError
        from robustatt.results import gate
        from robustatt.results.reference import make_reference, read_reference, write_reference
        from robustatt.results.summary import Summary

        path = self.folder / (file or self.name)
        if path in self._used:
            pytest.fail(f"{path.name} is checked twice in one test: give each result a file of its own", pytrace=False)
        self._used.add(path)
        try:
            summary = Summary.parse(result.summary, "the result")
            if self.update:
                write_reference(path, make_reference(result.records, summary))
                return None
            if not path.exists():
                pytest.fail(f"no reference {path}: run pytest --robustness-update once and commit it", pytrace=False)
            reference = read_reference(path)
            found = gate.check(result.records, summary, reference, max_drop, alpha, allow, same_weights=same_weights)
        except RobustattError as problem:
            pytest.fail(str(problem), pytrace=False)
        if found.exit_code:
            pytest.fail(_message(found, path), pytrace=False)
        return found


def _message(found: CheckResult, path: Path) -> str:
    """The table that `robustatt check` prints, and how to accept the change."""
    from robustatt.cli._terminal import table_text
    from robustatt.report import check as outcome

    rule = [outcome.rule(found)] if found.points else []
    accept = f"If the change is meant: pytest --robustness-update, and commit {path.name}."
    return "\n".join([found.headline, table_text(*outcome.table(found)), *outcome.notes(found), *rule, accept])


@pytest.fixture
def robustness_reference(request: pytest.FixtureRequest) -> RobustnessReference:
    """Compare a `robustatt.sweep` result with a reference file: `robustness_reference.check(result)`."""
    parts = [request.path.stem, *([request.cls.__name__] if request.cls else []), request.node.name]
    name = re.sub(r"[^\w.=-]+", "-", ".".join(parts)).strip("-")
    update = bool(request.config.getoption("--robustness-update"))
    return RobustnessReference(request.path.parent, f"{name}.robustness.json", update)
