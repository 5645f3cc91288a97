"""The common corruptions of Hendrycks & Dietterich 2019 by name, and the published constants of their five severities.

The constants depend on the size of the images: those of CIFAR-10-C, of Tiny ImageNet-C and of ImageNet-C.
"""

from __future__ import annotations

from typing import Any

from robustatt.errors import InputError, did_you_mean

SEVERITIES = (1, 2, 3, 4, 5)

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""In the order of the paper's tables; ``extra`` is held out for tuning and enters no mean."""
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
BENCHMARK = tuple(kind for kind in KINDS if kind not in GROUPS["extra"])
"""The 15 kinds over which the benchmark takes its means."""
RGB_ONLY = ("saturate", "spatter")
"""Kinds that colour the image, so that one channel of grey cannot show them."""

CIFAR, TINY, IMAGENET = "CIFAR-10-C", "Tiny ImageNet-C", "ImageNet-C"


def scale(height: int, width: int) -> str:
    """Whose constants images of this size get: by their shorter side, nearest in ratio to 32, 64 or 224 pixels."""
    side = min(height, width)
    return CIFAR if side <= 45 else TINY if side <= 120 else IMAGENET


def constants(kind: str, severity: int, height: int, width: int) -> Any:
    """What is published for a kind and severity at this size; what it means stands where it is used."""
    return _CONSTANTS[kind][scale(height, width)][severity - 1]


def chosen_kinds(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Kinds from names of kinds and groups, in the order of `KINDS`; the benchmark's 15 if there are no names.

    Raises:
        InputError: no such kind or group.
    """
    known = {**{kind: (kind,) for kind in KINDS}, **GROUPS, "all": KINDS}
    for name in names:
        if name not in known:
            raise InputError(f"--corruption {name!r}: {did_you_mean(name, known)}")
    wanted = {kind for name in names for kind in known[name]} or {*BENCHMARK}
    return tuple(kind for kind in KINDS if kind in wanted)


def chosen_severities(text: str) -> tuple[int, ...]:
    """Severities from a text such as ``1..5``, ``3`` or ``1,3,5``.

    Raises:
        InputError: not a severity from 1 to 5.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ends = [int(end) if end.isdecimal() and len(end) < 9 else 0 for end in ([first, last] if dots else [first, first])]
        if not 1 <= ends[0] <= ends[1] <= SEVERITIES[-1]:
            raise InputError(f"--severity {text!r}: give severities from 1 to 5, such as 3, 1..5 or 1,3,5")
        found.update(range(ends[0], ends[1] + 1))
    return tuple(sorted(found))


_BRIGHTER = [0.1, 0.2, 0.3, 0.4, 0.5]
_FLATTER = [0.4, 0.3, 0.2, 0.1, 0.05]
_FINE_ZOOM = [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)]

_CONSTANTS: dict[str, dict[str, list[Any]]] = {
    "gaussian_noise": {
        CIFAR: [0.04, 0.06, 0.08, 0.09, 0.10],
        TINY: [0.04, 0.08, 0.12, 0.15, 0.18],
        IMAGENET: [0.08, 0.12, 0.18, 0.26, 0.38],
    },
    "shot_noise": {
        CIFAR: [500, 250, 100, 75, 50],
        TINY: [250, 100, 50, 30, 15],
        IMAGENET: [60, 25, 12, 5, 3],
    },
    "impulse_noise": {
        CIFAR: [0.01, 0.02, 0.03, 0.05, 0.07],
        TINY: [0.01, 0.02, 0.05, 0.08, 0.14],
        IMAGENET: [0.03, 0.06, 0.09, 0.17, 0.27],
    },
    "speckle_noise": {
        CIFAR: [0.06, 0.1, 0.12, 0.16, 0.2],
        TINY: [0.15, 0.2, 0.25, 0.3, 0.35],
        IMAGENET: [0.15, 0.2, 0.35, 0.45, 0.6],
    },
    "gaussian_blur": {
        CIFAR: [0.4, 0.6, 0.7, 0.8, 1],
        TINY: [0.5, 0.75, 1, 1.25, 1.5],
        IMAGENET: [1, 2, 3, 4, 6],
    },
    "defocus_blur": {
        CIFAR: [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        TINY: [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
        IMAGENET: [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    },
    "glass_blur": {
        CIFAR: [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        TINY: [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        IMAGENET: [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    },
    "motion_blur": {
        CIFAR: [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        TINY: [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
        IMAGENET: [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    },
    "zoom_blur": {
        CIFAR: _FINE_ZOOM,
        TINY: _FINE_ZOOM,
        IMAGENET: [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    },
    "fog": {
        CIFAR: [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        TINY: [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
        IMAGENET: [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    },
    "frost": {
        CIFAR: [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        TINY: [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
        IMAGENET: [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    },
    "snow": {
        CIFAR: [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        TINY: [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ],
        IMAGENET: [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    },
    "spatter": {
        CIFAR: [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        TINY: [
            (0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.8, 0.7, 0.6, 0), (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1), (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ],
        IMAGENET: [
            (0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
    },
    "contrast": {CIFAR: [0.75, 0.5, 0.4, 0.3, 0.15], TINY: _FLATTER, IMAGENET: _FLATTER},
    "brightness": {CIFAR: [0.05, 0.1, 0.15, 0.2, 0.3], TINY: _BRIGHTER, IMAGENET: _BRIGHTER},
    "saturate": {
        CIFAR: [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
        TINY: [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)],
        IMAGENET: [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    },
    "jpeg_compression": {CIFAR: [80, 65, 58, 50, 40], TINY: [65, 58, 50, 40, 25], IMAGENET: [25, 18, 15, 10, 7]},
    "pixelate": {
        CIFAR: [0.95, 0.9, 0.85, 0.75, 0.65],
        TINY: [0.9, 0.8, 0.7, 0.6, 0.5],
        IMAGENET: [0.6, 0.5, 0.4, 0.3, 0.25],
    },
    "elastic_transform": {  # strength, smoothness, and corners of the affine map, in shares of 32, 64 and 244 pixels
        CIFAR: [tuple(32 * share for share in shares) for shares in (
            (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))],
        TINY: [tuple(64 * share for share in shares) for shares in (
            (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))],
        IMAGENET: [tuple(244 * share for share in shares) for shares in (
            (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))],
    },
}  # fmt: skip
