"""Many levels: which are shown side by side, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import make_records

from robustatt.report import drift_figures
from robustatt.report.drift_by_level import level_tables
from robustatt.report.drift_curves import drift_panel
from robustatt.report.heatmaps import row_name
from robustatt.results.aggregate import summarise
from robustatt.results.columns import ROLLOUT, level_title, map_title, shown_levels
from robustatt.results.gallery import GalleryEntry, read_gallery, write_gallery

BLOCKS = [f"block{i}" for i in range(1, 13)]


def test_of_many_blocks_first_middle_last_and_rollout_are_shown() -> None:
    assert shown_levels([*BLOCKS, ROLLOUT]) == ["block1", "block6", "block12", ROLLOUT]
    assert shown_levels([*BLOCKS[:11], ROLLOUT]) == [*BLOCKS[:11], ROLLOUT]
    assert shown_levels(BLOCKS) == ["block1", "block6", "block12"]


def test_levels_have_titles() -> None:
    assert [level_title(level) for level in ("l2", "block11", ROLLOUT, "layer1.0.spatial", "blocky")] == [
        "Level 2", "Block 11", "Rollout", "layer1.0.spatial", "blocky",
    ]  # fmt: skip
    assert map_title(ROLLOUT) == "Attention rollout"


def test_figures_of_drift_show_some_and_say_of_how_many() -> None:
    levels = [*BLOCKS, ROLLOUT]
    records = make_records(n=40, models=("net",), attacks=("fgsm",), radii=3)
    records = records.drop(columns=[name for name in records if name.startswith("drift_")])
    drift = pd.DataFrame({f"drift_js_{level}": 0.01 * (k + 1) for k, level in enumerate(levels)}, index=records.index)
    plan = {"data": {"name": "digits", "n": 40}, "models": [], "attacks": [{"name": "fgsm", "algorithm": "fgsm"}]}
    summary = summarise(pd.concat([records, drift], axis=1), plan, {}, [])
    (figure,) = [spec for spec in drift_figures(summary) if spec.slug.split("-")[1] == "js"]
    assert [panel.title for panel in figure.panels] == ["Block 1", "Block 6", "Block 12", "Rollout"]
    assert "Shown are 4 of 13 levels" in figure.caption
    panel = drift_panel(summary, "fgsm")
    assert panel is not None
    assert [series.label for series in panel.series] == ["net, block 1", "net, block 6", "net, block 12", "net, rollout"]
    assert level_tables(summary, "fgsm")[0].levels == levels


@pytest.mark.parametrize(
    ("label", "clean", "attacked", "said"),
    [(0, 0, 0, "stays a"), (0, 0, 1, "a → b"), (0, 1, 1, "wrong when clean: b"), (0, 1, 2, "wrong when clean: b → c")],
)
def test_a_row_of_pictures_tells_fooled_from_wrong_anyway(label: int, clean: int, attacked: int, said: str) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    entry = GalleryEntry("net", "pgd", 7, "1/255", label, clean, attacked, image, image.astype(np.float32), {}, {})
    assert row_name(entry, "abc") == f"#7, ε = 1/255\n{said}"


def test_a_gallery_keeps_the_order_and_names_of_levels(tmp_path: Path) -> None:
    maps = {level: np.full((2, 2), 0.25, np.float32) for level in ("block9", "block10", "layer1.0.spatial#2")}
    image = np.zeros((4, 4, 3), np.uint8)
    entry = GalleryEntry("net", "fgsm", 0, "1/255", 0, 0, 1, image, image.astype(np.float32), maps, dict(maps))
    write_gallery(tmp_path, [entry])
    assert read_gallery(tmp_path)[0].levels == entry.levels == list(maps)
