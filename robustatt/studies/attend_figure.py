"""The figure of `robustatt attend`: one's own pictures, clean and attacked, with their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustatt.report.draw import png_bytes, shorten, theme
from robustatt.report.heatmaps import draw_rows
from robustatt.results.columns import kind_of
from robustatt.results.gallery import GalleryEntry

NOTES = {
    "attention": "Maps: attention, which decides what the classifier sees.",
    "saliency": "Maps: Grad-CAM saliency of the predicted class; this network has no attention.",
    "none": "This network has neither attention nor a layer that Grad-CAM could be taken at.",
}


@dataclass(frozen=True)
class PictureRow:
    """A picture's file name, what the network said of it clean and attacked, and the images with their maps."""

    name: str
    clean: str
    attacked: str
    entry: GalleryEntry


def map_note(entry: GalleryEntry) -> str:
    """What the maps of an entry are, in a sentence."""
    return NOTES[kind_of(entry.levels[0]) if entry.levels else "none"]


def attended_png(rows: Sequence[PictureRow], model: str, attack: str, eps: str) -> bytes:
    """All pictures in one PNG, a row each; the maps' kind stands below."""
    names = [f"{shorten(row.name, 26)}\n{row.clean}\n→ {row.attacked}" for row in rows]
    note = (
        f"{shorten(model)} under {attack} at ε = {eps}. {map_note(rows[0].entry)} "
        "Change: orange grew, blue shrank; the perturbation is magnified."
    )
    with theme(**{"axes.grid": False}):
        return png_bytes(draw_rows([row.entry for row in rows], names, note))
