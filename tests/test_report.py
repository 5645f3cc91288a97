"""The report: what is on the page, that it is self-contained and safe, and that it says what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_records import PROVENANCE, make_plan, make_records

from robustatt.report import ReportPaths, write_report
from robustatt.report.narrative import without_paths
from robustatt.summary import summarise

WARNING = {
    "code": "saturation",
    "message": "31 % of images have probability 1",
    "model": "vgg",
    "attack": None,
}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    VOID = frozenset(
        {"meta", "link", "img", "br", "input", "hr", "line", "path", "polyline", "polygon", "rect"}
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def build(
    folder: Path, records: pd.DataFrame, health: Any = (), figures: bool = False, **plan: Any
) -> ReportPaths:
    summary = summarise(records, make_plan(records) | plan, PROVENANCE, health)
    return write_report(folder, records, summary, figures=figures)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportPaths, str]:
    records = make_records(n=80, attacks=("fgsm", "pgd", "noise"))
    paths = build(tmp_path_factory.mktemp("report"), records, [WARNING], figures=True)
    return paths, paths.html.read_text()


def test_figures_in_three_formats(page: tuple[ReportPaths, str]) -> None:
    paths, _ = page
    names = {path.name for path in paths.figures}
    for slug in ("accuracy", "worst-case", "fooling-rate", "drift-js-vgg_att3"):
        assert {f"{slug}.png", f"{slug}.svg", f"{slug}.csv"} <= names
    assert all(path.stat().st_size > 500 for path in paths.figures)
    table = pd.read_csv(next(path for path in paths.figures if path.name == "accuracy.csv"))
    assert list(table) == ["model", "attack", "eps", "value", "ci_low", "ci_high", "n"]
    assert len(table) == 2 * 3 * 17


def test_page_reads_as_it_should(page: tuple[ReportPaths, str]) -> None:
    reader = Reader(page[1])
    assert "Robustness of vgg and vgg_att3 on digits" in reader.text
    assert "1 health warning" in reader.text
    assert reader.text.index("31 % of images") < reader.text.index("Clean accuracy")
    assert "The strongest attack that was run is pgd" in reader.text
    assert "Not run:" in reader.text
    assert str(PROVENANCE["command"]) in page[1]
    charts = [
        attrs for tag, attrs in reader.tags if tag == "svg" and "chart" in str(attrs.get("class")).split()
    ]
    assert len(charts) == 3 + 5 * 3
    assert all(attrs["data-chart"] in page[1] for attrs in charts)


def test_page_asks_for_nothing(page: tuple[ReportPaths, str]) -> None:
    for tag, attrs in Reader(page[1]).tags:
        assert tag not in {"link", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "url(" not in page[1]
    assert "@import" not in page[1]
    assert len(page[1]) < 1_000_000


def test_fgsm_alone_is_called_an_upper_bound(tmp_path: Path) -> None:
    paths = build(tmp_path, make_records(n=20, attacks=("fgsm",)))
    assert "FGSM alone was run" in Reader(paths.html.read_text()).text


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"
    records = make_records(models=("vgg",), attacks=("fgsm",), n=20).replace({"model": {"vgg": evil}})
    warning = WARNING | {"message": evil, "code": evil}
    text = build(tmp_path, records, [warning], data={"name": evil, "split": evil}).html.read_text()
    reader = Reader(text)
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert "</script><img" not in text
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    assert "{{7*7}}" in reader.text


def test_no_absolute_path_reaches_the_page(tmp_path: Path) -> None:
    records = make_records(n=10, attacks=("fgsm",))
    summary = summarise(
        records, make_plan(records), {"command": "robustatt sweep --weights /home/ann/w.st"}, []
    )
    summary["provenance"]["where"] = str(tmp_path)
    text = write_report(tmp_path, records, summary, figures=False).html.read_text()
    assert "/home/ann" not in text
    assert str(tmp_path) not in text
    assert without_paths(r"C:\Users\ann\run.toml at 8/255 on a/b.py") == "…/run.toml at 8/255 on a/b.py"


def test_empty_run_says_so(tmp_path: Path) -> None:
    records = make_records(n=5)
    summary = summarise(records.head(0), make_plan(records), {}, [])
    paths = write_report(tmp_path, records.head(0), summary)
    reader = Reader(paths.html.read_text())
    assert "No results yet" in reader.text
    assert paths.figures == ()
    assert Reader(write_report(tmp_path, None, summary).html.read_text()).text


def test_partial_run_says_what_is_missing(tmp_path: Path) -> None:
    records = make_records(n=30)
    gone = (records.model == "vgg_att3") & (records.attack == "pgd")
    short = (records.model == "vgg") & (records["index"] >= 20)
    partial = records[~gone & ~short].drop(columns=[c for c in records if c.startswith("drift_")])
    summary = summarise(partial, make_plan(records), {}, [])
    text = Reader(write_report(tmp_path, partial, summary, figures=False).html.read_text()).text
    assert "vgg_att3: nothing was recorded under pgd" in text
    assert "vgg under fgsm: 20 of 30 images" in text
    assert "no attention drift was recorded" in text


def test_one_radius_one_example(tmp_path: Path) -> None:
    paths = build(tmp_path, make_records(n=1, radii=1), figures=True)
    assert paths.html.exists()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    records = make_records(n=20, attacks=("fgsm",))
    first, second = build(tmp_path / "a", records, figures=True), build(tmp_path / "b", records, figures=True)
    assert first.html.read_bytes() == second.html.read_bytes()
    assert [p.read_bytes() for p in first.figures] == [p.read_bytes() for p in second.figures]


def test_no_style_attribute_and_no_unknown_colour(page: tuple[ReportPaths, str]) -> None:
    used = set(re.findall(r"class=\"(?:series|band) (c\d+)\"", page[1]))
    assert used
    assert all(f".{name}{{--c:" in page[1] for name in used)
