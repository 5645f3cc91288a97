"""Prints the table of docs/health.md: each planted case, what the health checks say, and what AutoAttack's own flags say.

    python benchmarks/planted_table.py [--autoattack] [--write docs/health.md]

AutoAttack's flags need the package `pyautoattack` and some minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import planted_peers as peers
from marked import write_between
from planted.cases import CASES, Case

BEGIN, END = "<!-- planted: begin -->", "<!-- planted: end -->"


def row(case: Case, flags: bool) -> str:
    """One line of the table."""
    if case.lacking:
        return "| " + " | ".join([case.what, "none", f"not run: {case.lacking}", *["-"] * (3 if flags else 2)]) + " |"
    found = case.codes()
    named = (case.code in found) if case.code else not found
    others = ", ".join(f"`{code}`" for code in found if code != case.code) or "-"
    code = f"`{case.code}`" if case.code else "none"
    cells = [case.what, code, "yes" if named else "**no**", others, "deep" if case.deep else "sweep"]
    return "| " + " | ".join([*cells, *([peers.flags(case)] if flags else [])]) + " |"


def table(flags: bool) -> list[str]:
    """The whole table in Markdown, and a line that sums it up."""
    head = ["set-up", "expected", "so it is", "other codes", "by", *(["AutoAttack's flags"] if flags else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case in CASES:
        lines.append(row(case, flags))
        print(lines[-1], flush=True)
    wrong = sum("**no**" in line for line in lines)
    mistakes = sum(bool(case.code) for case in CASES)
    return [*lines, "", f"{mistakes} mistakes and {len(CASES) - mistakes} healthy models; {wrong} judged wrongly."]


def main() -> None:
    """Print the table, and put it between the markers of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoattack", action="store_true", help="also what AutoAttack's flags say")
    parser.add_argument("--write", type=Path, help="a Markdown file with the markers")
    wanted = parser.parse_args()
    lines = table(wanted.autoattack)
    print(lines[-1])
    if wanted.write:
        write_between(wanted.write, BEGIN, END, "\n".join(lines))


if __name__ == "__main__":
    main()
