"""Many levels: which are shown side by side, and the heatmap that shows them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from synthetic_records import make_records

from robustatt.report.depth import depths, on_the_page, write_depths
from robustatt.results.aggregate import summarise
from robustatt.results.columns import ROLLOUT, level_title, map_title, shown_levels
from robustatt.results.gallery import GalleryEntry, read_gallery, write_gallery
from robustatt.results.summary import Summary

BLOCKS = [f"block{i}" for i in range(1, 13)]
PLAN = {"data": {"name": "digits", "n": 40}, "models": [], "attacks": [{"name": "fgsm", "algorithm": "fgsm"}]}


def deep(levels: list[str]) -> Summary:
    """Records of a model whose drift at the k-th level is k hundredths at every radius."""
    records = make_records(n=40, models=("net",), attacks=("fgsm",), radii=3)
    records = records.drop(columns=[name for name in records if name.startswith("drift_")])
    drift = pd.DataFrame({f"drift_js_{level}": 0.01 * (k + 1) for k, level in enumerate(levels)}, index=records.index)
    return summarise(pd.concat([records, drift], axis=1), PLAN, {}, [])


def test_of_many_blocks_first_middle_last_and_rollout_are_shown() -> None:
    assert shown_levels([*BLOCKS, ROLLOUT]) == ["block1", "block6", "block12", ROLLOUT]
    assert shown_levels([*BLOCKS[:11], ROLLOUT]) == [*BLOCKS[:11], ROLLOUT]
    assert shown_levels(BLOCKS) == ["block1", "block6", "block12"]


def test_levels_have_titles() -> None:
    assert [level_title(level) for level in ("l2", "block11", ROLLOUT, "layer1.0.spatial", "blocky")] == [
        "Level 2", "Block 11", "Rollout", "layer1.0.spatial", "blocky",
    ]  # fmt: skip
    assert map_title(ROLLOUT) == "Attention rollout"


def test_the_heatmap_holds_every_level_in_order_of_depth(tmp_path: Path) -> None:
    (depth,) = depths(deep([*BLOCKS, ROLLOUT]), "fgsm")
    assert list(depth.table.index) == [*BLOCKS, ROLLOUT]
    assert list(depth.table.columns) == ["1/255", "2/255", "3/255"]
    np.testing.assert_allclose(depth.table.to_numpy(), 0.01 * np.arange(1, 14)[:, None].repeat(3, 1), rtol=1e-5)
    written = write_depths(deep([*BLOCKS, ROLLOUT]), "fgsm", tmp_path)
    assert {path.name for path in written} == {f"drift-depth-net.{kind}" for kind in ("png", "svg", "csv")}
    assert pd.read_csv(tmp_path / "drift-depth-net.csv")["level"].tolist() == [*BLOCKS, ROLLOUT]
    (shown,) = on_the_page(deep([*BLOCKS, ROLLOUT]), "fgsm")
    assert shown["picture"].startswith("data:image/png;base64,iVBOR")


def test_few_levels_and_saliency_have_no_heatmap() -> None:
    assert list(depths(deep(["l1", "l2", "l3"]), "fgsm")) == []
    assert list(depths(deep(["gradcam"]), "fgsm")) == []
    assert list(depths(deep(BLOCKS), None)) == []


def test_a_gallery_keeps_the_order_and_names_of_levels(tmp_path: Path) -> None:
    maps = {level: np.full((2, 2), 0.25, np.float32) for level in ("block9", "block10", "layer1.0.spatial#2")}
    image = np.zeros((4, 4, 3), np.uint8)
    entry = GalleryEntry("net", "fgsm", 0, "1/255", 0, 0, 1, image, image.astype(np.float32), maps, dict(maps))
    write_gallery(tmp_path, [entry])
    assert read_gallery(tmp_path)[0].levels == entry.levels == list(maps)
