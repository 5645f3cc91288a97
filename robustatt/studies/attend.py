"""Pictures of one's own: where a network looks on them, clean and attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from robustatt.attack.recipe import Recipe
from robustatt.data.dataset import TensorDataset
from robustatt.data.grey import as_channels, channels_taken
from robustatt.data.images import decode, resize
from robustatt.errors import InputError, did_you_mean
from robustatt.evaluate.cell import as_float
from robustatt.evaluate.classifier import frozen
from robustatt.evaluate.drift import AttentionMaps, drift
from robustatt.evaluate.gallery_examples import pictures
from robustatt.models.device import choose_device
from robustatt.plan import Cell
from robustatt.plan.entries import AUTO
from robustatt.report.draw import png_bytes, shorten, theme
from robustatt.report.heatmaps import draw_rows
from robustatt.results.columns import kind_of
from robustatt.results.gallery import GalleryEntry
from robustatt.results.gallery import as_float as pixels_as_float

MIN_SIDE, MAX_SIDE = 8, 1024
BATCH = 16
NOTES = {
    "attention": "Maps: attention, which decides what the classifier sees.",
    "saliency": "Maps: Grad-CAM saliency of the predicted class; this network has no attention.",
    "none": "This network has neither attention nor a layer that Grad-CAM could be taken at.",
}


@dataclass(frozen=True)
class Picture:
    """An image file brought to a network's input: uint8 ``(3, height, width)``, and what was done to it, in words."""

    name: str
    pixels: UInt8[Tensor, "3 height width"]
    fitted: str


@dataclass(frozen=True)
class Seen:
    """One picture under attack: both images with their maps, and how probable the network finds what it says."""

    picture: Picture
    entry: GalleryEntry
    clean_probability: float
    adv_probability: float


def read_picture(path: Path, side: int | None) -> Picture:
    """An image file as a sweep decodes and resizes it (docs/data.md); a side of None leaves its size.

    Raises:
        InputError: no such file, no image, or a damaged one; or a side outside 8 .. 1024 pixels.
    """
    if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
        raise InputError(f"--input-size {side}: give {MIN_SIDE} to {MAX_SIDE} pixels")
    if not path.is_file():
        raise InputError(f"no image {path}: give a file such as photo.jpg")
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from problem
    whole = decode(content, str(path))
    image = resize(whole, side, str(path))
    if max(image.size) > MAX_SIDE:
        raise InputError(f"{path} is {image.size[0]}x{image.size[1]}: give --input-size, such as 224")
    (width, height), (wide, high) = whole.size, image.size
    cut = "as it is" if whole.size == image.size else "resized" if width == height else "its central square, resized"
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return Picture(path.name, pixels, f"{width} x {height} to {wide} x {high}: {cut}")


def attend(
    module: nn.Module,
    label: str,
    shown: Sequence[Picture],
    attack: Recipe,
    eps: str,
    *,
    seed: int = 0,
    device: str = "auto",
    attention: str = AUTO,
) -> list[Seen]:
    """Attack each picture away from what the network takes it for, and keep the maps of both images.

    The maps are the attended levels, or Grad-CAM saliency for a network without attention, as in a sweep. `eps` is a
    radius in text ("8/255"). The module is left as it was. Raises InputError if it cannot take these pictures.
    """
    sizes = {tuple(picture.pixels.shape[1:]): picture.name for picture in shown}
    if len(sizes) > 1:
        said = ", ".join(f"{name} is {width}x{height}" for (height, width), name in list(sizes.items())[:2])
        raise InputError(f"pictures differ in size ({said}): give --input-size to bring all to one size")
    pixels = as_channels(torch.stack([picture.pixels for picture in shown]), channels_taken(module) or 3)
    place = choose_device(device)
    with frozen(module, label, place, as_float(pixels[:BATCH]).to(place), attention=attention) as classifier:

        def probabilities(images: Tensor) -> Tensor:
            with torch.no_grad():
                parts = [classifier.logits(part.to(place)) for part in torch.split(images, BATCH)]
            return torch.cat(parts).softmax(dim=1).cpu()

        clean = probabilities(as_float(pixels))
        names = [str(number) for number in range(classifier.classes)]
        dataset = TensorDataset(pixels, clean.argmax(dim=1), names)
        cell = Cell(label, "", dataset.fingerprint, attack, (eps,), 0, len(shown), seed, independent=False)
        entries = list(pictures(cell, classifier, dataset, range(len(shown)), BATCH))
        images = np.stack([pixels_as_float(entry.adversarial) for entry in entries])
        attacked = probabilities(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return [
        Seen(picture, entry, float(before[entry.clean_pred]), float(after[entry.adv_pred]))
        for picture, entry, before, after in zip(shown, entries, clean, attacked, strict=True)
    ]


def drift_by_head(
    module: nn.Module, label: str, seen: Sequence[Seen], level: str, *, device: str = "auto", attention: str = AUTO
) -> Float[Tensor, "pictures heads"]:
    """How far each head of one level moved on each picture: Jensen-Shannon divergence in bits.

    Raises:
        InputError: the network has no such level, or it has no heads.
    """
    place = choose_device(device)
    clean = torch.from_numpy(np.stack([pixels_as_float(one.entry.image) for one in seen])).permute(0, 3, 1, 2).to(place)
    attacked = torch.from_numpy(np.stack([pixels_as_float(one.entry.adversarial) for one in seen])).permute(0, 3, 1, 2).to(place)
    with frozen(module, label, place, clean[:BATCH], attention=attention) as classifier, torch.no_grad():
        reader, counts = classifier.reader, classifier.reader.head_counts
        if level not in counts:
            said = (
                f"give the level whose heads are drawn; {did_you_mean(level, counts)}"
                if counts
                else "none of its levels has heads"
            )
            raise InputError(f"model {label!r}: --heads {level!r}: {said}")
        number, size, moved = reader.levels.index(level), (clean.shape[2], clean.shape[3]), []
        for head in range(counts[level]):
            by_head = reader.of_head(head)
            before, after = (
                torch.cat([by_head.attend(classifier.fast, part)[1][number] for part in torch.split(images, BATCH)])
                for images in (clean, attacked)
            )
            moved.append(drift(AttentionMaps.of(before, size), AttentionMaps.of(after, size))["js"])
    return torch.stack(moved, dim=1).cpu()


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


def heads_png(names: Sequence[str], moved: Float[Tensor, "pictures heads"], title: str) -> bytes:
    """A heatmap of drift: a row for each picture and one for their mean, a column for each head."""
    import seaborn
    from matplotlib.figure import Figure

    values = torch.cat([moved, moved.mean(dim=0, keepdim=True)]).numpy()
    rows = [*(shorten(name, 26) for name in names), "mean"]
    left, height = 0.3 + 0.075 * max(map(len, rows)), 0.95 + 0.3 * len(rows)
    width = left + 0.55 * values.shape[1] + 1.0
    with theme(**{"axes.grid": False}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.5 / height, (width - left - 1.0) / width, 1 - 0.9 / height))
        bar = figure.add_axes((1 - 0.8 / width, 0.5 / height, 0.15 / width, 1 - 0.9 / height))
        seaborn.heatmap(
            values, ax=axes, cmap="Blues", vmin=0, yticklabels=rows, annot=values.shape[1] <= 16, fmt=".2g", linewidths=0.4,
            annot_kws={"fontsize": 7}, cbar_ax=bar,
        )  # fmt: skip
        axes.tick_params(length=0)
        axes.tick_params("y", rotation=0)
        axes.set(xlabel="head", title=title)
        bar.set_title("bits", fontsize="small", loc="left")
        return png_bytes(figure)


def attended_png(rows: Sequence[PictureRow], model: str, attack: str, eps: str) -> bytes:
    """All pictures in one PNG, a row each; the maps' kind stands below."""
    names = [f"{shorten(row.name, 26)}\n{row.clean}\n→ {row.attacked}" for row in rows]
    note = (
        f"{shorten(model)} under {attack} at ε = {eps}. {map_note(rows[0].entry)} "
        "Change: orange grew, blue shrank; the perturbation is magnified."
    )
    with theme(**{"axes.grid": False}):
        return png_bytes(draw_rows([row.entry for row in rows], names, note))
