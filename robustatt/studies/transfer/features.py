"""Fixed features: for each image the vector that a network classifies, at the speed of plain inference.

For the paper's networks it is ``Network.features`` (the attended vectors of all levels, or the penultimate layer);
for a module from outside, what its last linear layer is given. What was computed is kept on disk by content hash.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from robustatt.data.dataset import Dataset, Pixels
from robustatt.engine.worker import automatic_batch_size
from robustatt.errors import InputError, NonFiniteLogits
from robustatt.evaluate.cell import as_float
from robustatt.evaluate.classifier import Classifier, frozen
from robustatt.evaluate.fingerprint import fingerprint
from robustatt.files import write_atomically
from robustatt.models.attention import Network

#: part of every key: raise it when the same network and images would give other features
SEMANTICS = 1
CHUNK = 1024

Features = NDArray[np.float32]
Advance = Callable[[int], None]


class FeatureExtractor:
    """A frozen network up to the vector that it classifies. Build it by `feature_extractor`."""

    def __init__(self, classifier: Classifier, compute: Callable[[Tensor], Tensor], key: str) -> None:
        self.label, self.device = classifier.label, classifier.device
        self.network, self.memory_format = classifier.fast, classifier.memory_format
        self._compute, self.key = compute, key

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Features of images in [0, 1]."""
        with torch.inference_mode():
            return self._compute(images.contiguous(memory_format=self.memory_format))

    def extract(self, dataset: Dataset, cache: Path | None = None, advance: Advance | None = None) -> Features:
        """Features ``(n, d)``, float32, of a whole data set; ranges found in the folder ``cache`` are read from it.

        Raises:
            InputError: an image is damaged, or the network does not take images of this size.
            NonFiniteLogits: a feature is NaN or infinite; names the example.
        """
        parts = []
        for start in range(0, len(dataset), CHUNK):
            stop = min(start + CHUNK, len(dataset))
            kept = None if cache is None else cache / f"{self._key(dataset, start, stop)}.npy"
            found = _read(kept, stop - start)
            if found is None:
                found = self._range(dataset, start, stop)
                _keep(kept, found)
            parts.append(found)
            if advance is not None:
                advance(stop - start)
        return np.concatenate(parts)

    def _key(self, dataset: Dataset, start: int, stop: int) -> str:
        decisive = f"{SEMANTICS}|{self.key}|{dataset.fingerprint}|{start}|{stop}"
        return hashlib.sha256(decisive.encode()).hexdigest()[:32]

    def _range(self, dataset: Dataset, start: int, stop: int) -> Features:
        size = automatic_batch_size(dataset.image_shape, self.device)
        ranges = [range(first, min(first + size, stop)) for first in range(start, stop, size)]
        found = [self(as_float(images).to(self.device)).float().cpu().numpy() for images in _read_ahead(dataset, ranges)]
        features = np.concatenate(found)
        wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(wrong):
            example = int(dataset.original([start + int(wrong[0])])[0])
            raise NonFiniteLogits(f"model {self.label!r} has NaN or infinite features for example {example}")
        return features


def _read_ahead(dataset: Dataset, ranges: Sequence[range]) -> Iterator[Pixels]:
    """The images of each range; the next ones are decoded while the last ones are computed on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(dataset.tensors, ranges[0])
        for following in [*ranges[1:], None]:
            images, _ = coming.result()
            if following is not None:
                coming = reader.submit(dataset.tensors, following)
            yield images


def _read(path: Path | None, count: int) -> Features | None:
    """Features of a range kept on disk; None where there are none or the file is damaged."""
    if path is None or not path.exists():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == count and found.dtype == np.float32 else None


def _keep(path: Path | None, features: Features) -> None:
    if path is None:
        return
    content = io.BytesIO()
    np.save(content, features, allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    except OSError:  # features that cannot be kept are computed again next time
        return


@contextmanager
def feature_extractor(
    module: nn.Module, label: str, device: torch.device, probe: Float[Tensor, "n c h w"]
) -> Iterator[FeatureExtractor]:
    """An extractor made of a frozen copy of the module, which stays as it is.

    Args:
        probe: a few images in [0, 1], on which the fast copy is held against the original.

    Raises:
        InputError: the network does not take such images, or has no linear layer to take features from.
    """
    key = fingerprint(module)
    with frozen(module, label, device, probe.to(device)) as classifier, _features_of(classifier, probe) as compute:
        yield FeatureExtractor(classifier, compute, key)


@contextmanager
def _features_of(classifier: Classifier, probe: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    fast = classifier.fast
    if isinstance(fast, Network):
        yield fast.features
        return
    layer = _last_linear(classifier, probe.to(classifier.device))
    given: list[Tensor] = []

    def compute(images: Tensor) -> Tensor:
        given.clear()
        fast(images)
        return given[-1]

    handle = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        yield compute
    finally:
        handle.remove()


def _last_linear(classifier: Classifier, probe: Tensor) -> nn.Linear:
    """The linear layer that is run last, and that is given one vector an image."""
    called: list[nn.Linear] = []

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Linear) and arguments[0].ndim == 2 and len(arguments[0]) == len(probe):
            called.append(layer)

    handles = [layer.register_forward_pre_hook(note) for layer in classifier.fast.modules() if isinstance(layer, nn.Linear)]
    try:
        with torch.no_grad():
            classifier.fast(probe)
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise InputError(
            f"model {classifier.label!r} has no linear layer (torch.nn.Linear) at its end, so no vector to take as "
            "features: give a network that classifies by one"
        )
    return called[-1]
