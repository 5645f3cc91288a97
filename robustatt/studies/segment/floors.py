"""What a model must beat before its attention may be said to find objects: maps that know nothing of any class.

* ``whole``: the whole picture. Its Jaccard index is the object's share.
* ``gaussian``: a bell in the middle, its standard deviation a third of each side. Photographers centre objects.
  Average precision, pointing game, quantile and fitted threshold depend on the order of pixels alone, so the
  width matters to Otsu's threshold and the share of mass only.
* ``spectral_residual``: Hou & Zhang (2007), and ``fine_grained``: Montabone & Soto (2010), both as in OpenCV.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustatt.errors import InputError

WIDTH = 1 / 3  # of the Gaussian, in sides
FLOOR = "floor"
FLOORS = ("whole", "gaussian", "spectral_residual", "fine_grained")
NEEDED = {"cv2": "opencv-contrib-python-headless", "skimage": "scikit-image"}


def require_libraries() -> None:
    """InputError with the command to type if OpenCV's saliency or scikit-image is not installed."""
    for module, package in NEEDED.items():
        try:
            found = importlib.import_module(module)
        except ImportError:
            raise InputError(_missing(package)) from None
        if module == "cv2" and not hasattr(found, "saliency"):
            raise InputError(f"{_missing(package)} (the OpenCV here has no saliency module)")


def _missing(package: str) -> str:
    return f"segment needs {package}: pip install 'robustatt[paper]'"


def gaussian(height: int, width: int) -> NDArray[np.float32]:
    """A Gaussian in the middle of a picture ``(height, width)``, its standard deviation ``WIDTH`` of each side."""
    rows, columns = ((np.arange(side) + 0.5 - side / 2) / (WIDTH * side) for side in (height, width))
    return np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / 2).astype(np.float32)


def floor_maps(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The map of each of ``FLOORS`` for an RGB image ``(h, w, 3)``: non-negative, ``(h, w)``."""
    saliency: ModuleType = importlib.import_module("cv2").saliency
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return {
        "whole": np.ones(image.shape[:2], dtype=np.float32),
        "gaussian": gaussian(*image.shape[:2]),
        "spectral_residual": _classical(saliency.StaticSaliencySpectralResidual_create(), bgr),
        "fine_grained": _classical(saliency.StaticSaliencyFineGrained_create(), bgr),
    }


def _classical(method: Any, bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OpenCV's map; a picture it can say nothing about (NaN, on a single colour) gives a constant one."""
    done, values = method.computeSaliency(bgr)
    if not done or not np.isfinite(values).all():
        return np.ones(bgr.shape[:2], dtype=np.float32)
    return np.asarray(values, dtype=np.float32)
