"""Where a model looks in images of any size, as maps of the size of the image.

A network is run at several scales. At each one the image is resized (bilinear, antialiased) so that its shorter side
is the scale; the longer side keeps the proportion, so nothing is distorted or cut off. Both sides are then extended
to a multiple of 16 by reflection, half of it on each end, because the networks pool by up to 16. A map is upsampled
bilinearly to that size, what lies over the extension is cut off, and the rest is upsampled to the image and divided
by its sum. The maps of all scales are averaged, and so are the logits: together the scales are one classifier of
the image as it is, which is what is attacked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.errors import InputError
from robustatt.evaluate.classifier import Classifier, require_finite
from robustatt.evaluate.gradcam import as_shares, grad_cam, input_gradient
from robustatt.studies.segment.floors import FLOOR, FLOORS, floor_maps

STRIDE = 16
GROWTH = (1.0, 1.5, 2.0)  # the scales of a network, in sides of the images it was trained on
COMBINATIONS = ("product", "mean", "product_all")
COMBINED = 2  # how many levels, from the last one back, are combined

Images = Float[Tensor, "n 3 height width"]
Maps = dict[str, Float[Tensor, "n height width"]]
Saliency = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MapView:
    """Maps by method, each divided by its sum, and the prediction (none for a floor)."""

    maps: Maps
    prediction: Int[Tensor, " n"] | None = None


class Observer(Protocol):
    """Anything that says where in an image it looks.

    ``kinds`` names its methods and what each is: attention, gate, activation, combination, saliency or floor.
    ``headline`` is the method it is judged by, chosen before any number is known.
    """

    label: str
    kinds: dict[str, str]
    headline: tuple[str, ...]

    def look(self, images: Images, index: Int[Tensor, " n"]) -> MapView:
        """The maps of a batch of images in [0, 1]."""
        ...


class Floors:
    """The maps that know nothing of any class (see ``floors``); each is a headline."""

    label = FLOOR
    headline: tuple[str, ...] = FLOORS

    def __init__(self) -> None:
        self.kinds = dict.fromkeys(FLOORS, "floor")

    def look(self, images: Images, index: Int[Tensor, " n"]) -> MapView:  # noqa: ARG002
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        each = [floor_maps(image) for image in pixels]
        return MapView({name: as_shares(torch.stack([torch.from_numpy(maps[name]) for maps in each])) for name in FLOORS})


class Viewer:
    """One model at several scales.

    Attention networks give the attention of every level and, of two levels and more, the last two combined: by the
    product of the upsampled maps (the paper's way, from memory) and by their mean (ours); of three also the product of
    all (ours). A network is judged by the product if it has one. ``vgg_gap`` gives its
    class activation map, ``vgg_pan`` its gate and attention and both combined. Any other model gives Grad-CAM and
    the input gradient of the class it predicts from all scales together.
    """

    def __init__(self, classifier: Classifier, scales: Sequence[int]) -> None:
        self.classifier, self.label, self.scales = classifier, classifier.label, tuple(scales)
        self._network = classifier.fast
        self.levels = _levels(classifier)
        self._saliency = {} if self.levels else self._saliencies()
        self.kinds = dict(self.levels) | dict.fromkeys(self._saliency, "saliency")
        if len(self.levels) > 1:
            self.kinds |= dict.fromkeys(COMBINATIONS[: len(self.levels)], "combination")
        self.headline: tuple[str, ...] = ("product" if len(self.levels) > 1 else next(iter(self.kinds)),)

    def logits(self, images: Images) -> Float[Tensor, "n classes"]:
        """The mean over the scales, differentiable with respect to the images."""
        return torch.stack([self.classifier.logits(self._bring(images, s).pixels) for s in self._used(images)]).mean(0)

    def look(self, images: Images, index: Int[Tensor, " n"]) -> MapView:
        """Maps and prediction; NonFiniteLogits names the index of the image."""
        if self.levels:
            logits, maps = self._attend(images)
        else:
            with torch.no_grad():
                logits = self.logits(images)
            target = logits.argmax(1)
            maps = {name: self._mean(images, target, way) for name, way in self._saliency.items()}
        require_finite(logits, index, self.label)
        return MapView(maps, logits.argmax(1))

    @torch.no_grad()
    def _attend(self, images: Images) -> tuple[Tensor, Maps]:
        logits: list[Tensor] = []
        seen: list[list[Tensor]] = []
        for scale in self._used(images):
            scaled = self._bring(images, scale)
            said, maps = self.classifier.attend(scaled.pixels)
            logits.append(said)
            seen.append([scaled.back(level, images) for level in maps])
        levels = [torch.stack(maps).mean(0) for maps in zip(*seen, strict=True)]
        named = {name: level for (name, _), level in zip(self.levels, levels, strict=True)}
        return torch.stack(logits).mean(0), named | combine(levels)

    def _mean(self, images: Images, target: Tensor, way: Saliency) -> Tensor:
        scaled = [self._bring(images, scale) for scale in self._used(images)]
        return torch.stack([one.back(way(one.pixels, target), images) for one in scaled]).mean(0)

    def _used(self, images: Images) -> tuple[int, ...]:
        """The scales that do not enlarge the image, or else the smallest."""
        fitting = tuple(scale for scale in self.scales if scale <= min(images.shape[2:]))
        return fitting or (min(self.scales),)

    def _bring(self, images: Images, scale: int) -> Scaled:
        scaled = to_scale(images, scale)
        return Scaled(scaled.pixels.contiguous(memory_format=self.classifier.memory_format), scaled.inner)

    def _saliencies(self) -> dict[str, Saliency]:
        """Grad-CAM where the model has a layer for it, and the input gradient."""
        ways: dict[str, Saliency] = {
            "gradcam": lambda x, target: grad_cam(self._network, x, target),
            "gradient": lambda x, target: input_gradient(self._network, x, target),
        }
        side = min(self.scales)
        try:
            grad_cam(self._network, torch.full((1, 3, side, side), 0.5, device=self.classifier.device))
        except InputError:
            del ways["gradcam"]
        return ways


def _levels(classifier: Classifier) -> list[tuple[str, str]]:
    """The maps of ``attend``: each one's name and kind."""
    names = getattr(classifier.original, "map_names", {})
    return [names.get(level, (level, "attention")) for level in classifier.attended]


def combine(levels: Sequence[Float[Tensor, "n height width"]]) -> Maps:
    """The levels' maps, low to high, as one; each combination is divided by its sum.

    ``product`` and ``mean``: element by element, of the last two levels; ``product_all``: of all, if there are more.
    Empty for a single level.
    """
    if len(levels) < COMBINED:
        return {}
    last = levels[-COMBINED:]
    combined = {"product": _product(last), "mean": as_shares(torch.stack(list(last)).mean(0))}
    return combined | ({"product_all": _product(levels)} if len(levels) > COMBINED else {})


def _product(levels: Sequence[Tensor]) -> Tensor:
    scaled = [level.double() / level.amax(dim=(1, 2), keepdim=True) for level in levels]
    return as_shares(torch.stack(scaled).prod(0)).float()


@dataclass(frozen=True)
class Scaled:
    """Images as a network sees them, and where in them the image itself lies: (top, left, height, width)."""

    pixels: Images
    inner: tuple[int, int, int, int]

    def back(self, maps: Float[Tensor, "n h w"], images: Images) -> Float[Tensor, "n height width"]:
        """Maps of what the network saw, brought to the size of the images and divided by their sums."""
        top, left, height, width = self.inner
        seen = _resize(maps[:, None], self.pixels.shape[2:])[:, :, top : top + height, left : left + width]
        return as_shares(_resize(seen, images.shape[2:])[:, 0])


class Prior:
    """A model's mean map over images: what is left of it where it does not look at the image at hand.

    A network knows where the border is, and photographers centre objects; a map that finds objects no better than this
    finds the middle. Maps are averaged at ``SIDE`` pixels a side, whatever the proportions of their images. No mask is used.
    """

    SIDE = 64

    def __init__(self) -> None:
        self._sum = torch.zeros(self.SIDE, self.SIDE)

    def add(self, maps: Float[Tensor, "n height width"]) -> None:
        """Takes in the maps of more images."""
        self._sum += as_shares(_resize(maps[:, None], (self.SIDE, self.SIDE))[:, 0]).sum(0).cpu()

    def at(self, height: int, width: int) -> Float[Tensor, "height width"]:
        """The mean map for an image of that size, divided by its sum."""
        return as_shares(_resize(self._sum[None, None], (height, width))[:, 0])[0]


def to_scale(images: Images, scale: int) -> Scaled:
    """Images with their shorter side brought to ``scale`` pixels and both sides extended to multiples of ``STRIDE``."""
    shorter = min(images.shape[2:])
    height, width = (round(side * scale / shorter) for side in images.shape[2:])
    pixels = images
    if (height, width) != tuple(images.shape[2:]):
        pixels = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
    extra = [-side % STRIDE for side in (height, width)]
    top, left = extra[0] // 2, extra[1] // 2
    if any(extra):
        pixels = F.pad(pixels, (left, extra[1] - left, top, extra[0] - top), mode="reflect")
    return Scaled(pixels, (top, left, height, width))


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def default_scales(input_size: int) -> tuple[int, ...]:
    """The scales of a network trained on images of ``input_size`` pixels a side."""
    return tuple(round(input_size * growth) for growth in GROWTH)
