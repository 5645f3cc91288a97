"""Markdown as this project writes it: tables, and names of users that cannot break out of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

SPECIAL = {"\\": "\\\\", "|": "\\|", "<": "&lt;", ">": "&gt;", "`": "\\`", "_": "\\_", "*": "\\*"}
LINK = re.compile(r"\[(?=[^\]]*\]\()")


def escape(text: str) -> str:
    """Text of any origin as Markdown shows it letter by letter, on one line."""
    return LINK.sub(r"\\[", " ".join("".join(SPECIAL.get(sign, sign) for sign in text).split()))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table of cells that are Markdown already; `right`: the columns aligned to the right."""
    rules = ["---:" if column in right else "---" for column in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table of cells of any origin."""
    return table(heads, [[escape(cell) for cell in row] for row in rows], right)
