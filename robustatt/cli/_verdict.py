"""What the gate says of a run, in the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.cli._terminal import print_table

if TYPE_CHECKING:
    from robustatt.results.gate import CheckResult


def print_verdict(found: CheckResult, directory: Path, reference: Path) -> None:
    """The points that changed, the verdict, the rule, and what to do; annotations on GitHub."""
    from robustatt.report import check as outcome

    heads, rows = outcome.table(found)
    if rows:
        print_table(heads, rows)
    print("\n".join([found.headline, *outcome.notes(found), *([outcome.rule(found)] if found.points else [])]))
    if any(change.kind == "incomplete" for change in found.changes):
        print("The run is incomplete: run the sweep's command again to resume it.")
    elif found.verdict == "undecided":
        print("Run the sweep's command again, without --time and --until, to go on to the verdict.")
    elif found.look is None and (found.exit_code or found.verdict == "improvement"):
        print(f"If this is meant: robustatt check {directory} --update {reference}, and commit that file.")
    elif found.exit_code:
        print(
            f"If this is meant: run the sweep without --against to its end, then robustatt check {directory} --update {reference}."
        )
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(outcome.to_annotations(found, str(reference)), end="")
