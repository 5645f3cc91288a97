"""Data in the forms that people have at hand, as a data set: DataLoaders, torch data sets, batches, dicts, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)
from torch.utils.data import Dataset as TorchDataset

from robustatt.data.dataset import (
    Dataset,
    Indices,
    Pixels,
    TensorDataset,
    checked_images,
    checked_labels,
    content_hash,
)
from robustatt.data.images import to_rgb
from robustatt.data.labels import Labels, class_indices
from robustatt.errors import InputError, warn_caller

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "inputs")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y", "class")
CHUNK = 256
WANTED = (
    "give (images, labels) as tensors, a DataLoader, a torch Dataset, batches, dicts of image and label, "
    "a set of robustatt.data.load, or its name"
)


def adopt(data: Any, limit: int | None = None) -> Dataset:
    """Anything that holds images and labels, as a data set whose indices are positions in it.

    What can be indexed is read when needed and not kept; what can only be run through is kept in memory. ``limit``:
    the first images are enough.

    Raises:
        InputError: no form that is known, or images or labels that cannot be taken; says what is needed.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, DataLoader):
        return _from_loader(data, limit)
    if isinstance(data, Mapping):
        return TensorDataset(*_parts_of_mapping(data))
    if isinstance(data, tuple | list) and len(data) == 2 and _are_images(data[0]):
        return TensorDataset(stacked(data[0]), data[1])
    if isinstance(data, str | bytes | Tensor | np.ndarray) or not isinstance(data, Iterable | TorchDataset):
        raise InputError(f"data: {type(data).__name__} is not supported: {WANTED}")
    return _from_items(data, limit)


def _from_items(data: Any, limit: int | None) -> Dataset:
    """Batches or single examples, whether they can be indexed or only run through."""
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return _run_through(data, limit)
    if len(data) == 0:
        raise InputError("data has no examples")
    try:
        batches = _is_batch(data[0])
    except InputError as error:
        raise InputError(f"data: {type(data).__name__} is not supported: {error}") from None
    if batches:
        return _run_through(data, limit)
    return IndexedImages(data, limit=limit)


def stacked(images: Any) -> Tensor:
    """Images as one tensor ``(n, channels, h, w)``: a tensor or array as it is, a list one by one."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray) and images.dtype != object:
        return torch.from_numpy(np.ascontiguousarray(images))
    return _stack([image_tensor(image, f"image {place}") for place, image in enumerate(images)])


def _stack(images: Sequence[Tensor]) -> Tensor:
    for place, image in enumerate(images):
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise InputError(
                f"image {place} is {tuple(image.shape)} {image.dtype} and the first {tuple(images[0].shape)} "
                f"{images[0].dtype}: all images must have one size and type"
            )
    if not images:
        raise InputError("data has no examples")
    return torch.stack(list(images))


def image_tensor(image: Any, where: str) -> Tensor:
    """One image ``(channels, h, w)`` of a picture, a tensor of that shape, or an array with channels last.

    Raises:
        InputError: anything else.
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(to_rgb(image, where))).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise InputError(f"{where} has shape {tuple(image.shape)}: (channels, height, width) is needed")
        return image.detach().cpu()
    array = np.asarray(image)
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3):
        raise InputError(f"{where} is a {type(image).__name__}: a tensor, an array or a PIL image is needed")
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    if pixels.ndim == 2:
        return pixels[None]
    last = array.shape[2] in (1, 3) and array.shape[0] not in (1, 3)
    return pixels.permute(2, 0, 1) if last else pixels


def _are_images(value: Any) -> bool:
    """Whether the first half of (images, labels): an array, or a list in which each is one image."""
    if isinstance(value, Tensor | np.ndarray):
        return True
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_image, value))


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3))


def pair(item: Any, where: str) -> tuple[Any, Any]:
    """Image and label of an item: the first two of a tuple or list, or by key.

    Raises:
        InputError: neither.
    """
    if isinstance(item, Mapping):
        return _parts_of_mapping(item, where)
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise InputError(f"{where} is a {type(item).__name__}: (image, label) or a dict with image and label is needed")


def _parts_of_mapping(item: Mapping[Any, Any], where: str = "data") -> tuple[Any, Any]:
    found = [next((key for key in keys if key in item), None) for keys in (IMAGE_KEYS, LABEL_KEYS)]
    if None in found:
        kind, keys = ("image", IMAGE_KEYS) if found[0] is None else ("label", LABEL_KEYS)
        raise InputError(f"{where} has no {kind} among its keys {', '.join(map(str, item))}: name it {' or '.join(keys[:2])}")
    return item[found[0]], item[found[1]]


def _is_batch(item: Any) -> bool:
    """Whether an item holds several images: four axes, or a list of them."""
    images, _ = pair(item, "item 0")
    return (isinstance(images, Tensor | np.ndarray) and images.ndim == 4) or isinstance(images, list | tuple)


def _run_through(batches: Iterable[Any], limit: int | None) -> TensorDataset:
    """Batches or single examples, in order, in memory."""
    images: list[Tensor] = []
    labels: list[Any] = []
    for place, item in enumerate(batches):
        where = f"item {place}"
        some, truth = pair(item, where)
        if _is_batch(item):
            images += list(stacked(some))
            truth = truth.tolist() if isinstance(truth, Tensor | np.ndarray) else list(truth)
            labels += truth
        else:
            images.append(image_tensor(some, where))
            labels.append(truth)
        if len(images) != len(labels):
            raise InputError(f"{where} has another number of labels than of images")
        if limit is not None and len(images) >= limit:
            break
    return TensorDataset(_stack(images[:limit]), labels[:limit])


def _from_loader(loader: DataLoader[Any], limit: int | None) -> Dataset:
    """The data set of a DataLoader in its own order, put together by the loader's ``collate_fn``."""
    source = loader.dataset
    if isinstance(source, IterableDataset):
        return _run_through(loader, limit)
    sampler = loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler
    count = len(source)  # type: ignore[arg-type]
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == count
    if type(sampler) is not SequentialSampler and not shuffled:
        raise InputError(
            f"data: the DataLoader draws by {type(sampler).__name__}, so that indices mean nothing: give the data set itself, "
            "or torch.utils.data.Subset(dataset, indices)"
        )
    if shuffled or (loader.drop_last and count % (loader.batch_size or 1)):
        what = "shuffles" if shuffled else "drops its last batch"
        warn_caller(f"the DataLoader {what}; all {count} images of its data set are evaluated in their own order")
    collate = loader.collate_fn if loader.batch_size is not None else None
    return IndexedImages(source, collate, limit=limit)


@final
class IndexedImages(Dataset):
    """Items that can be indexed, each read when it is needed: memory does not grow with their number.

    All items are read once at the start, for labels, range and hash. ``collate`` makes a batch of a list of items.

    Raises:
        InputError: an item is not an image and a label, differs in size, or is another at each reading.
    """

    def __init__(self, items: Any, collate: Callable[[list[Any]], Any] | None = None, *, limit: int | None = None) -> None:
        self._items, self._collate = items, collate
        self._count = len(items) if limit is None else min(limit, len(items))
        self.name, self.split = "tensors", "test"
        if self._count == 0:
            raise InputError("data has no examples")
        first, again = self._read([0])[0], self._read([0])[0]
        if not torch.equal(first, again):
            raise InputError("data: item 0 is another image at each reading: turn random augmentation off")
        channels, height, width = first.shape[1:]
        self.image_shape = (channels, height, width)
        self._names = _names(items)
        labels: list[Any] = []
        for start in range(0, self._count, CHUNK):
            labels += self._read(range(start, min(start + CHUNK, self._count)))[1]
        indices, named = class_indices(labels, self._names)
        self.labels = checked_labels(indices, self._count, named or self._names)
        self.classes = named or self._names or tuple(map(str, range(int(self.labels.max()) + 1)))
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """As of the same images and labels in memory."""
        if self._fingerprint is None:
            self._fingerprint = content_hash(self.batches(CHUNK))
        return self._fingerprint

    def __len__(self) -> int:
        return self._count

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        if len(wanted) == 0:
            return torch.empty((0, *self.image_shape)), self.labels[wanted]
        return self._read(wanted.tolist())[0], self.labels[wanted]

    def _read(self, positions: Sequence[int]) -> tuple[Tensor, list[Any]]:
        items = [self._items[position] for position in positions]
        if self._collate is not None:
            images, labels = pair(self._collate(items), "a batch")
            images = stacked(images)
            labels = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
        else:
            pairs = [pair(item, f"item {place}") for place, item in zip(positions, items, strict=True)]
            images = _stack([image_tensor(image, f"image {place}") for place, (image, _) in zip(positions, pairs, strict=True)])
            labels = [label for _, label in pairs]
        return checked_images(images), labels


def _names(items: Any) -> tuple[str, ...] | None:
    names = getattr(items, "classes", None)
    if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
        return tuple(names) or None
    return None
