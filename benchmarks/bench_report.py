"""How long a report takes: `python benchmarks/bench_report.py [examples] [models]`, by default 10,000 examples, 16 radii, 4 models.

Prints wall and CPU seconds of each part: records from disk, summary, page with tables, figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from synthetic_records import MEDIAN_RADIUS, PROVENANCE, make_gallery, make_plan, make_records

from robustatt.report import write_report
from robustatt.results.aggregate import summarise
from robustatt.results.gallery import write_gallery
from robustatt.results.records import encode

T = TypeVar("T")


def timed(name: str, work: Callable[[], T]) -> T:
    """The result, after printing what it cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name:24} {time.perf_counter() - wall:6.2f} s wall {time.process_time() - cpu:6.2f} s CPU", flush=True)
    return result


def main(examples: int = 10_000, models: int = 4) -> None:
    """Make the run, then its report, part by part."""
    records = make_records(tuple(MEDIAN_RADIUS)[:models], ("pgd",), n=examples)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for start in range(0, examples, 256):
            for model, rows in records[records["index"].between(start, start + 255)].groupby("model"):
                (folder / f"{start}-{model}.parquet").write_bytes(encode(rows.dropna(axis=1).to_dict("list")))
        write_gallery(folder, [e for m in records["model"].unique() for e in make_gallery(records, m, "pgd", range(9))])
        again = timed("records from disk", lambda: pd.concat(map(pd.read_parquet, sorted(folder.glob("*.parquet")))))
        summary = timed("summary", lambda: summarise(again, make_plan(records), PROVENANCE, []))
        paths = timed("page and tables", lambda: write_report(folder, again, summary, figures=False))
        timed("the same with figures", lambda: write_report(folder, again, summary))
        print(f"{len(again):,} rows; the page is {paths.html.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
