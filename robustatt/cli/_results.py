"""Reading the folder that a sweep wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustatt.cli._terminal import warn
from robustatt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from robustatt.results.summary import Summary


def read_results(directory: Path, *, none_yet: bool = False) -> tuple[pd.DataFrame, Summary]:
    """The records and their summary; a warning reports records that are missing; none at all are accepted only if `none_yet`.

    Everything is computed from the records; disagreements within the folder are reported on the terminal,
    and is the `integrity` of the summary for the page.
    """
    from robustatt.engine.evidence import read_folder

    folder = read_folder(directory)
    for finding in folder.findings:
        warn(finding)
    if not len(folder.records) and not none_yet:
        raise InputError(f"{directory}: no Cell of this sweep is computed yet: run its command again to resume it")
    return folder.records, folder.shown()
