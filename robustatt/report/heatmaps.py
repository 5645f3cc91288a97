"""Stored examples as pictures: attention over the image, its signed change, the perturbation magnified."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustatt.files import file_safe
from robustatt.report.draw import save, theme, write_csv
from robustatt.results.columns import level_title, map_title, shown_levels
from robustatt.results.gallery import GalleryEntry, as_float, by_example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.float32]
"""RGB in [0, 1], ``(height, width, 3)``."""

CELL, GAP = 96, 6
PAGE_PIXELS = 64
"""Larger images are averaged down to this many pixels a side for the page."""

PAGE_BYTES = 6_000_000
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float32) / 255
_LESS, _MORE = np.array([31, 111, 180], np.float32) / 255, np.array([217, 95, 2], np.float32) / 255


def attention_over(image: Picture, attention: Picture, top: float) -> Picture:
    """The image in grey with the map (``(h, w)``, brightest at ``top``) in colour over it."""
    value = np.clip(resize(attention, image.shape[:2]) / max(top, 1e-12), 0, 1)[..., None]
    place = value[..., 0] * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    colour = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    cover = 0.85 * value**0.6
    return np.asarray(_grey(image) * (1 - cover) + colour * cover, np.float32)


def change_over(image: Picture, change: Picture, top: float) -> Picture:
    """The image in grey with a signed change over it: orange where attention grew, blue where it shrank."""
    value = np.clip(resize(change, image.shape[:2]) / max(top, 1e-12), -1, 1)[..., None]
    cover = 0.9 * np.abs(value) ** 0.6
    return np.asarray(_grey(image) * (1 - cover) + np.where(value > 0, _MORE, _LESS) * cover, np.float32)


def perturbation_picture(change: Picture) -> Picture:
    """A perturbation magnified to full contrast around mid-grey."""
    return np.asarray(0.5 + 0.5 * change / max(float(np.abs(change).max()), 1e-12), np.float32)


def _grey(image: Picture) -> Picture:
    return np.asarray(np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) * 0.9, np.float32)


def resize(values: NDArray[Any], shape: tuple[int, ...]) -> Picture:
    """Bilinear resize of ``(h, w)`` to ``shape``, cell centres aligned."""
    out = values.astype(np.float32)
    for axis, size in enumerate(shape[:2]):
        at = np.clip((np.arange(size) + 0.5) * out.shape[axis] / size - 0.5, 0, out.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        part = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(out.ndim)])
        out = np.take(out, low, axis) * (1 - part) + np.take(out, high, axis) * part
    return out


def fit(picture: Picture, size: int) -> Picture:
    """To ``(size, size)``: small pictures keep their pixels as squares, large ones are averaged down."""
    if max(picture.shape[:2]) > size:
        return resize(shrink(picture, 2 * size), (size, size))
    rows, columns = (np.arange(size) * side // size for side in picture.shape[:2])
    return np.asarray(picture[rows][:, columns])


# The figure -----------------------------------------------------------------------------------------------


def gallery_figures(entries: Sequence[GalleryEntry], classes: Sequence[str], folder: Path) -> list[Path]:
    """One figure for each model and attack with maps: three examples at three radii; PNG, SVG, CSV."""
    groups = by_example([entry for entry in entries if entry.levels])
    paths: list[Path] = []
    for model, attack in dict.fromkeys((model, attack) for model, attack, _ in groups):
        examples = [group for (m, a, _), group in groups.items() if (m, a) == (model, attack)]
        rows = [entry for group in spread(examples, 3) for entry in spread(group, 3)]
        stem = folder / f"gallery-{file_safe(model)}-{file_safe(attack)}"
        names = ("model", "attack", "index", "eps", "label", "clean_pred", "adv_pred")
        table = pd.DataFrame([{name: getattr(entry, name) for name in names} for entry in rows])
        write_csv(table, stem.with_name(f"{stem.name}.csv"))
        with theme(**{"axes.grid": False}):
            figure = draw_rows(rows, [row_name(entry, classes) for entry in rows])
            paths += [*save(figure, stem), stem.with_name(f"{stem.name}.csv")]
    return paths


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to ``count`` items, evenly spread from first to last; the first of one is the last."""
    if len(items) <= count:
        return list(items)
    return [items[round((i + 1) * (len(items) - 1) / count)] for i in range(count)]


def cells_of(entry: GalleryEntry) -> list[Picture]:
    """Image, attacked image, perturbation, and for each level clean map, attacked map, signed change."""
    image = as_float(entry.image)
    pictures = [image, as_float(entry.adversarial), perturbation_picture(entry.perturbation)]
    for level in shown_levels(entry.levels):
        clean, attacked = (as_float(maps[level]) for maps in (entry.clean_maps, entry.attacked_maps))
        top = float(max(clean.max(), attacked.max()))
        pictures += [
            attention_over(image, clean, top),
            attention_over(as_float(entry.adversarial), attacked, top),
            change_over(image, attacked - clean, float(np.abs(attacked - clean).max())),
        ]
    return pictures


def draw_rows(rows: Sequence[GalleryEntry], names: Sequence[str], note: str = "") -> Figure:
    """One row of pictures for each entry under its name; the note stands below. All entries have the same levels."""
    from matplotlib.figure import Figure

    levels = shown_levels(rows[0].levels)
    heads = ["image", "attacked", "change,\nmagnified"]
    for level in levels:
        heads += [f"{level_title(level)}\n{column}" for column in ("clean", "attacked", "change")]
    canvas = _compose([cells_of(entry) for entry in rows])
    height, width = canvas.shape[:2]
    left = 0.12 + 0.062 * max(len(line) for name in names for line in name.split("\n"))
    wide = left + 0.08 + width / 130
    note = textwrap.fill(note, max(20, int((wide - 0.2) / 0.062)))
    below = 0.06 + 0.17 * len(note.splitlines())
    high = 0.5 + below + height / 130
    figure = Figure(figsize=(wide, high))
    axis = figure.add_axes((left / wide, below / high, width / 130 / wide, height / 130 / high))
    axis.imshow(np.round(255 * np.clip(canvas, 0, 1)).astype(np.uint8), interpolation="none")
    _label(axis, heads, names)
    figure.text(0.1 / wide, (below - 0.06) / high, note, fontsize=8, va="top")
    return figure


def _compose(rows: Sequence[Sequence[Picture]]) -> Picture:
    step = CELL + GAP
    canvas = np.ones((len(rows) * step - GAP, len(rows[0]) * step - GAP, 3), np.float32)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            canvas[r * step : r * step + CELL, c * step : c * step + CELL] = fit(picture, CELL)
    return canvas


def _label(axis: Axes, heads: Sequence[str], names: Sequence[str]) -> None:
    step = CELL + GAP
    axis.set_xticks([c * step + CELL / 2 for c in range(len(heads))], heads)
    axis.set_yticks([r * step + CELL / 2 for r in range(len(names))], names)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def row_name(entry: GalleryEntry, classes: Sequence[str]) -> str:
    """What stands beside a row: the image, the radius, and what became of its class."""
    after = class_name(entry.adv_pred, classes)
    wrong = "" if entry.clean_pred == entry.label else "wrong when clean: "
    said = f"{class_name(entry.clean_pred, classes)} → {after}" if entry.fooled else f"{'' if wrong else 'stays '}{after}"
    return f"#{entry.index}, ε = {entry.eps}\n{wrong}{said}"


def class_name(number: int, classes: Sequence[str]) -> str:
    """A class as its name, or its number if it has none."""
    return classes[number] if 0 <= number < len(classes) else str(number)


# The page -------------------------------------------------------------------------------------------------


class PageRadius(TypedDict):
    """A stored example at one radius: ``change`` is int8 in units of ``size``, ``maps`` are uint8 by level."""

    eps: str
    pred: int
    size: float
    change: str
    maps: dict[str, str]


class PageExample(TypedDict):
    """A stored example as the page's script paints it; arrays are base64, ``levels`` are the shapes of the maps.

    ``shown`` are the levels that are seen at once; the others unfold.
    """

    model: str
    attack: str
    index: int
    label: int
    clean: int
    shape: tuple[int, ...]
    image: str
    levels: dict[str, tuple[int, ...]]
    shown: list[str]
    titles: dict[str, str]
    maps: dict[str, str]
    radii: list[PageRadius]


def page_gallery(entries: Sequence[GalleryEntry]) -> list[PageExample]:
    """The stored examples for the page's slider, as many as fit into `PAGE_BYTES`."""
    examples: list[PageExample] = []
    used = 0
    for group in by_example(entries).values():
        example = _page_example(group)
        used += sum(len(radius["change"]) + sum(map(len, radius["maps"].values())) for radius in example["radii"])
        if used > PAGE_BYTES:
            break
        examples.append(example)
    return examples


def _page_example(group: Sequence[GalleryEntry]) -> PageExample:
    first = group[0]
    image = shrink(as_float(first.image))
    tops = {
        level: float(max(max(e.clean_maps[level].max(), e.attacked_maps[level].max()) for e in group)) for level in first.levels
    }
    return {
        "model": first.model,
        "attack": first.attack,
        "index": first.index,
        "label": first.label,
        "clean": first.clean_pred,
        "shape": image.shape[:2],
        "image": _pack(np.round(image * 255).astype(np.uint8)),
        "levels": {level: shrink(first.clean_maps[level], 32).shape for level in first.levels},
        "shown": shown_levels(first.levels),
        "titles": {level: map_title(level) for level in first.levels},
        "maps": {level: _pack_map(first.clean_maps[level], tops[level]) for level in first.levels},
        "radii": [_page_radius(entry, tops) for entry in group],
    }


def _page_radius(entry: GalleryEntry, tops: Mapping[str, float]) -> PageRadius:
    change = shrink(entry.perturbation)
    size = float(np.abs(change).max())
    return {
        "eps": entry.eps,
        "pred": entry.adv_pred,
        "size": size,
        "change": _pack(np.round(127 * change / max(size, 1e-12)).astype(np.int8)),
        "maps": {level: _pack_map(entry.attacked_maps[level], top) for level, top in tops.items()},
    }


def shrink(values: NDArray[Any], most: int = PAGE_PIXELS) -> Picture:
    """The array averaged over whole blocks until no side is longer than ``most``."""
    block = -(-max(values.shape[:2]) // most)
    out = values.astype(np.float32)
    if block <= 1:
        return out
    height, width = (max(1, side // block) for side in values.shape[:2])
    out = resize(out, (height * block, width * block))
    return np.asarray(out.reshape(height, block, width, block, *out.shape[2:]).mean(axis=(1, 3)))


def _pack_map(attention: NDArray[Any], top: float) -> str:
    return _pack(np.round(255 * np.clip(shrink(attention, 32) / max(top, 1e-12), 0, 1)).astype(np.uint8))


def _pack(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
