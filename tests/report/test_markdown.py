"""Markdown: names of any origin stay text."""

from __future__ import annotations

import pytest

from robustatt.report.markdown import escape, plain_table, table


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("vgg_att3", r"vgg\_att3"),
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("[x](http://y)", r"\[x](http://y)"),
        ("0.5 [0.4, 0.6]", "0.5 [0.4, 0.6]"),
        ("two\n\nlines", "two lines"),
        ("`code` *bold* \\", r"\`code\` \*bold\* \\"),
    ],
)
def test_nothing_breaks_out(text: str, written: str) -> None:
    assert escape(text) == written
    assert plain_table(["a"], [[text]])[2] == f"| {written} |"


def test_a_table_is_as_wide_as_its_heads() -> None:
    assert table(["a", "b"], [["1", "2"]], right=[1]) == ["| a | b |", "| --- | ---: |", "| 1 | 2 |"]
