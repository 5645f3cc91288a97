"""The report: what is on the page, that it is self-contained and safe, and that it says what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_records import PROVENANCE, make_gallery, make_plan, make_records

from robustatt.errors import InputError
from robustatt.report import ReportPaths, drift_figures, write_comparison, write_report
from robustatt.report.draw import write_figure
from robustatt.report.examples import explorer_data
from robustatt.report.heatmaps import attention_over, change_over, gallery_figures, resize, shrink
from robustatt.report.text import without_paths
from robustatt.results.aggregate import summarise
from robustatt.results.gallery import choose_examples, read_gallery, write_gallery
from robustatt.results.outcomes import outcomes_by_curve

WARNING = {
    "code": "saturation",
    "message": "31 % of images have probability 1",
    "model": "vgg",
    "attack": None,
}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr", "line", "path", "polyline", "polygon", "rect"})

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


def build(folder: Path, records: pd.DataFrame, health: Any = (), figures: bool = False, **plan: Any) -> ReportPaths:
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
    for slug in (
        "accuracy",
        "worst-case",
        "fooling-rate",
        "gap",
        "breaking-radius",
        "drift-js-vgg_att3",
        "saliency-js-vgg",
        "confusion",
    ):
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
    charts = [attrs for tag, attrs in reader.tags if tag == "svg" and "chart" in str(attrs.get("class")).split()]
    assert len(charts) == 5 + 5 * (
        3 + 1
    )  # accuracy, worst case, fooling, gap, breaking; measures at three levels and of saliency
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
    origin = {"command": "robustatt sweep --weights /home/ann/w.st", "where": str(tmp_path)}
    summary = summarise(records, make_plan(records), origin, [])
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
    records = make_records(models=("vgg_att3",), n=1, attacks=("fgsm",), radii=1)
    assert build(tmp_path, records, figures=True).html.exists()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    records = make_records(models=("vgg",), n=20, attacks=("fgsm",), radii=4)
    first, second = build(tmp_path / "a", records), build(tmp_path / "b", records)
    assert first.html.read_bytes() == second.html.read_bytes()
    (spec,) = drift_figures(summarise(records, {}, {}, []))[:1]
    drawn = [write_figure(spec, path.html.parent / "figures") for path in (first, second)]
    assert [p.read_bytes() for p in drawn[0]] == [p.read_bytes() for p in drawn[1]]


def test_no_style_attribute_and_no_unknown_colour(page: tuple[ReportPaths, str]) -> None:
    used = set(re.findall(r"class=\"(?:series|band) (c\d+)\"", page[1]))
    assert used
    assert all(f".{name}{{--c:" in page[1] for name in used)


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def test_explorer_holds_every_prediction(page: tuple[ReportPaths, str]) -> None:
    records = make_records(n=80, attacks=("fgsm", "pgd", "noise"))
    data = embedded(page[1], "explorer-data")
    assert [(g["model"], g["attack"]) for g in data["grids"]] == [
        (model, attack) for model in ("vgg", "vgg_att3") for attack in ("fgsm", "pgd")
    ]
    grid = data["grids"][3]
    codes = np.array([ord(c) - 256 for c in grid["pred"]]).reshape(80, 17)
    rows = records[(records.model == "vgg_att3") & (records.attack == "pgd")]
    assert np.array_equal(codes, rows.adv_pred.to_numpy().reshape(80, 17))
    assert grid["index"] == {"from": 0}
    assert explorer_data([], None) is None


def test_large_runs_list_the_strongest_attack_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustatt.report.examples.MAX_PREDICTIONS", 100)
    data = explorer_data(list(outcomes_by_curve(make_records(n=10))), "pgd")
    assert data
    assert {grid["attack"] for grid in data["grids"]} == {"pgd"}
    assert data["left_out"] == ["fgsm"]


def test_tables(page: tuple[ReportPaths, str]) -> None:
    tables = {path.name: path.read_text() for path in page[0].tables}
    assert set(tables) == {"summary.csv", "accuracy.md", "accuracy.tex", "drift.md", "classes.csv", "classes.md", "breaking.csv"}
    assert len(tables["summary.csv"].splitlines()) == 1 + 2 * 3 * 17
    assert r"vgg\_att3 & pgd & $" in tables["accuracy.tex"]
    assert tables["accuracy.tex"].count(r"\\") == 1 + 6
    assert all(line.count("|") == 9 for line in tables["accuracy.md"].splitlines())


def test_attention_and_saliency_share_no_axis(page: tuple[ReportPaths, str]) -> None:
    tables = {path.name: pd.read_csv(path) for path in page[0].figures if path.suffix == ".csv"}
    assert set(tables["drift-js-vgg_att3.csv"]["level"]) == {"l1", "l2", "l3"}
    assert set(tables["saliency-js-vgg.csv"]["level"]) == {"gradcam"}
    for name in ("drift-js-vgg_att3.csv", "saliency-js-vgg.csv"):
        assert set(tables[name]["group"]) == {"fooled", "held", "all"}
        assert set(tables[name].query("group == 'all'")["attack"]) == {"noise"}
    for spec in drift_figures(summarise(make_records(n=80), {}, {}, [])):
        assert len({series.keys["level"] == "gradcam" for panel in spec.panels for series in panel.series}) == 1
        saliency = "saliency" in spec.caption.lower()
        assert saliency == (spec.panels[0].series[0].keys["level"] == "gradcam") == ("Saliency" in spec.title)


def test_does_drift_predict_being_fooled(page: tuple[ReportPaths, str]) -> None:
    records = make_records(n=80, attacks=("fgsm", "pgd", "noise"))
    rows = [r for r in summarise(records, {}, {}, []).drift_predicts_fooling if r.headline]
    assert len(rows) == 2 * (3 + 1)
    text = next(path for path in page[0].tables if path.name == "drift.md").read_text()
    reader = Reader(page[1])
    for row in rows:
        area = f"{row.auc:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"
        assert area in text
        assert f"{row.ci_low:.3f}\N{EN DASH}{row.ci_high:.3f}" in reader.text
    assert text.count("(saliency)") == 2
    assert text.count("yes: fooled ones move more") == sum(row.ci_low > 0.5 for row in rows)
    assert "saliency" not in " ".join(line for line in text.splitlines() if "vgg\\_att3" in line)


def test_confusion_counts_every_fooled_image(page: tuple[ReportPaths, str]) -> None:
    table = pd.read_csv(next(path for path in page[0].figures if path.name == "confusion.csv"))
    records = make_records(n=80, attacks=("fgsm", "pgd", "noise"))
    for (model, eps), flows in table.groupby(["model", "eps"]):
        at = records[(records.model == model) & (records.attack == "pgd") & (records.eps == eps)]
        fooled = at[(at.clean_pred == at.label) & (at.adv_pred != at.clean_pred)]
        assert flows["count"].sum() == len(fooled)


def test_gap_and_breaking_radius_by_hand(page: tuple[ReportPaths, str]) -> None:
    csv = {path.stem: pd.read_csv(path) for path in page[0].figures if path.suffix == ".csv"}
    records = make_records(n=80, attacks=("fgsm", "pgd", "noise"))
    pgd = records[records.attack == "pgd"].assign(right=lambda r: r.adv_pred == r.label)
    means = pgd.groupby(["model", "eps"])["right"].mean()
    gap = csv["gap"].query("attack == 'pgd' and eps == '6/255'").iloc[0]
    assert gap["value"] == pytest.approx(means["vgg_att3", "6/255"] - means["vgg", "6/255"])
    assert gap["ci_low"] < gap["value"] < gap["ci_high"]
    broken = csv["breaking-radius"].query("model == 'vgg' and attack == 'pgd'")["value"]
    assert broken.iloc[0] == 0
    assert broken.is_monotonic_increasing


# Gallery --------------------------------------------------------------------------------------------------


def test_gallery_round_trip(tmp_path: Path) -> None:
    records = make_records(n=20)
    entries = make_gallery(records, "vgg_att3", "pgd", [1, 4]) + make_gallery(records, "vgg", "pgd", [1])
    write_gallery(tmp_path, entries)
    again = read_gallery(tmp_path)
    assert len(again) == 3 * 17
    for old, new in zip(entries, again, strict=True):
        assert (old.model, old.attack, old.index, old.eps) == (new.model, new.attack, new.index, new.eps)
        assert (old.label, old.clean_pred, old.adv_pred) == (new.label, new.clean_pred, new.adv_pred)
        assert np.array_equal(old.image, new.image)
        assert np.abs(old.adversarial - new.adversarial).max() < 1e-3
        assert old.levels == new.levels
        for level in old.levels:
            assert np.allclose(old.attacked_maps[level], new.attacked_maps[level], atol=1e-3)
    assert read_gallery(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("harm", ["empty", "cut", "text", "flip"])
def test_damaged_gallery_is_one_line(tmp_path: Path, harm: str) -> None:
    path = write_gallery(tmp_path, make_gallery(make_records(n=4), "vgg_att3", "pgd", [1]))
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 3] ^= 255
    path.write_bytes({"empty": b"", "cut": bytes(content[:500]), "text": b"no npz"}.get(harm, bytes(content)))
    with pytest.raises(InputError, match="damaged"):
        read_gallery(tmp_path)


def test_gallery_reaches_page_and_figures(tmp_path: Path) -> None:
    records = make_records(models=("vgg_att3",), n=20, attacks=("pgd",))
    write_gallery(tmp_path, make_gallery(records, "vgg_att3", "pgd", [1, 4, 7]))
    paths = build(tmp_path, records)
    figures = gallery_figures(read_gallery(tmp_path), [], tmp_path)
    assert [p.name for p in figures] == [f"gallery-vgg_att3-pgd.{kind}" for kind in ("png", "svg", "csv")]
    assert all(path.stat().st_size > 100 for path in figures)
    text = paths.html.read_text()
    data = embedded(text, "gallery-data")
    assert [example["index"] for example in data] == [1, 4, 7]
    assert len(data[0]["radii"]) == 17
    assert "gallery-eps" in {attrs.get("id") for _, attrs in Reader(text).tags}


def test_choice_of_examples_is_seeded_and_mixed() -> None:
    breaking = {i: (float("inf") if i % 3 == 0 else i / 10) for i in range(90)}
    chosen = choose_examples(breaking, count=12, seed=1)
    assert chosen == choose_examples(breaking, count=12, seed=1)
    assert sum(np.isinf(breaking[i]) for i in chosen) == 4
    assert choose_examples({3: 1.0}, 12) == [3]


def test_maps_are_painted_where_they_are() -> None:
    image = np.full((8, 8, 3), 0.5, np.float32)
    attention = np.zeros((4, 4), np.float32)
    attention[0, 0] = 1
    painted = attention_over(image, attention, 1.0)
    assert np.allclose(painted[4:, 4:], 0.45)
    assert painted[0, 0, 0] > painted[0, 0, 2]
    change = change_over(image, attention - attention[::-1, ::-1], 1.0)
    assert change[0, 0, 0] > change[0, 0, 2]
    assert change[7, 7, 2] > change[7, 7, 0]
    assert np.allclose(resize(np.eye(3), (3, 3)), np.eye(3))
    assert shrink(np.ones((300, 200, 3))).shape == (60, 40, 3)


# Comparison -----------------------------------------------------------------------------------------------


def test_comparison_lists_every_flip(tmp_path: Path) -> None:
    old = make_records(n=60, attacks=("pgd",))
    new = old.copy()
    hit = (new.model == "vgg") & new["index"].isin([2, 5]) & (new.eps == "1/255")
    new.loc[hit, "adv_pred"] = new.loc[hit, "label"] + 1
    runs = [(name, frame, summarise(frame, make_plan(frame), {}, [])) for name, frame in (("a", old), ("<b>", new))]
    paths = write_comparison(runs[0], runs[1], tmp_path)
    flips = pd.read_csv(next(path for path in paths.tables if path.name == "flips.csv"))
    was_right = set(old[hit & (old.adv_pred == old.label)]["index"])
    assert set(flips["index"]) == was_right
    assert set(flips["change"]) <= {"lost"}
    reader = Reader(paths.html.read_text())
    assert "a against <b>" in reader.text
    rows = pd.read_csv(next(path for path in paths.tables if path.name == "comparison.csv"))
    assert rows["lost"].sum() == len(was_right)


def test_comparison_of_other_images_is_refused(tmp_path: Path) -> None:
    old, new = make_records(n=30), make_records(n=30, seed=9)
    with pytest.raises(InputError, match="not of the same images"):
        write_comparison(("a", old, {"plan": {}, "curves": []}), ("b", new, {"plan": {}, "curves": []}), tmp_path)
    with pytest.raises(InputError, match="nothing to compare"):
        write_comparison(("a", old, {}), ("b", new.replace({"model": {"vgg": "x", "vgg_att3": "y"}}), {}), tmp_path)


# In a browser ---------------------------------------------------------------------------------------------

PROBE = """<script>
window.addEventListener("load", () => {
  const problems = [], q = (s) => document.querySelector(s), all = (s) => [...document.querySelectorAll(s)];
  const check = (name, good) => { if (!good) problems.push(name); };
  check("overflow", document.documentElement.scrollWidth <= document.documentElement.clientWidth);
  const slider = q("#gallery-eps"), says = q("#gallery-says").textContent;
  slider.value = "0"; slider.dispatchEvent(new Event("input"));
  const now = q("#gallery-says").textContent;
  check("slider", now !== says && now.includes("0/255"));
  check("pictures", all("#gallery-stage canvas").length === 12);
  slider.value = "8"; slider.dispatchEvent(new Event("input"));
  const change = all("#gallery-stage canvas")[2].getContext("2d").getImageData(0, 0, 60, 60).data;
  check("perturbation", new Set(change).size > 2);
  check("table", all("#explore-body tr").length === 20);
  const pick = (id, value) => { q(id).value = value; q(id).dispatchEvent(new Event("change")); };
  pick("#explore-eps", "16"); pick("#explore-state", "fooled");
  const fooled = all("#explore-body tr").length;
  check("filter", fooled > 0 && fooled < 21 && all("#explore-body td.fooled").length === fooled);
  const table = q("table.sortable"), head = all("table.sortable thead button")[3];
  head.click();
  const values = [...table.tBodies[0].rows].map((r) => Number(r.cells[3].dataset.v));
  check("sort", values.every((v, i) => i === 0 || values[i - 1] <= v));
  const before = getComputedStyle(document.body).backgroundColor;
  q("#theme").click();
  check("theme", getComputedStyle(document.body).backgroundColor !== before);
  const chart = q("svg.chart"), box = chart.getBoundingClientRect();
  const place = { clientX: box.left + box.width / 2, clientY: box.top + 5, bubbles: true };
  chart.dispatchEvent(new PointerEvent("pointermove", place));
  check("hover", !q("#tip").hidden && q("#tip").textContent.includes("vgg"));
  check("requests", performance.getEntriesByType("resource").length === 0);
  const buttons = all(".tabs button"); buttons[2].click();
  const open = all("[data-tab]").filter((f) => !f.hidden);
  check("tabs", open.length > 0 && open.every((f) => f.dataset.tab === buttons[2].dataset.shows));
  parent.postMessage("done:" + problems.join(",") + window.broken, "*");
});
</script></body>"""


FRAME = """<title>nothing</title><body style="margin:0">
<script>addEventListener("message", (event) => {{ document.title = event.data; }});</script>
<iframe src="probe.html" style="border:0;width:{width}px;height:1200px"></iframe></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1400])
def test_page_works_in_a_browser(tmp_path: Path, width: int) -> None:
    records = make_records(n=20, attacks=("fgsm", "pgd"))
    write_gallery(tmp_path, make_gallery(records, "vgg_att3", "pgd", [1, 4, 7]))
    text = build(tmp_path, records, [WARNING]).html.read_text()
    catch = "<head><script>window.broken='';window.onerror=(m)=>{window.broken+=' '+m}</script>"
    (tmp_path / "probe.html").write_text(text.replace("<head>", catch, 1).replace("</body>", PROBE, 1))
    path = tmp_path / "frame.html"
    path.write_text(FRAME.format(width=width))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = ["chromium", *flags.split(), "--disable-component-update", "--disable-sync", "--dump-dom"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1200",
        "--virtual-time-budget=4000",
    ]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    assert title[1] == "done:"
