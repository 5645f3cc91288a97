"""Views of a data set: some of its images, at another size, with one channel, or with its classes in another order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robustatt.data.dataset import Dataset, Indices, Pixels
from robustatt.data.labels import Labels
from robustatt.errors import InputError, did_you_mean


class View(Dataset):
    """Another look at a whole data set; whatever a view does not change is the whole's."""

    def __init__(self, whole: Dataset) -> None:
        self.whole = whole
        self.name, self.split, self.classes, self.labels = whole.name, whole.split, whole.classes, whole.labels
        self.image_shape = whole.image_shape

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's fingerprint and of what the view changes."""
        change = self._change()
        if change is None:
            return self.whole.fingerprint
        return hashlib.sha256(f"{self.whole.fingerprint}|{change}".encode()).hexdigest()

    def _change(self) -> str | None:
        """What the view changes, as text; None for nothing."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.whole)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        return self.whole.tensors(indices)

    def original(self, indices: Indices) -> Tensor:
        return self.whole.original(indices)

    def source(self, index: int) -> str | None:
        return self.whole.source(index)


@final
class Sample(View):
    """Some images of a data set, by position in the sample; `original` gives their indices in the whole set.

    Args:
        whole: the data set.
        chosen: indices in it, ``(n,)``, in the order of the sample.
    """

    def __init__(self, whole: Dataset, chosen: Tensor) -> None:
        super().__init__(whole)
        self.chosen = whole.positions(chosen)
        self.labels = whole.labels[self.chosen]

    def _change(self) -> str:
        return str(self.chosen.tolist())

    def __len__(self) -> int:
        return len(self.chosen)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        return self.whole.tensors(self.original(indices))

    def original(self, indices: Indices) -> Tensor:
        return self.chosen[self.positions(indices)]

    def source(self, index: int) -> str | None:
        return self.whole.source(int(self.chosen[index]))


def stratified(labels: Labels, count: int, seed: int) -> Tensor:
    """Indices ``(count,)``, ascending, of a random sample with each class in its share of the whole.

    Shares are rounded by largest remainder, ties to the lower class. Drawn by numpy's ``RandomState``, whose
    stream never changes between versions.

    Raises:
        InputError: fewer than 1, or more than there are.
    """
    if not 1 <= count <= len(labels):
        raise InputError(f"--sample {count}: the data has {len(labels)} examples: give 1 to {len(labels)}")
    numbers = labels.numpy()
    sizes = np.bincount(numbers)
    exact = sizes * count / len(numbers)
    quota = np.floor(exact).astype(np.int64)
    for label in np.argsort(quota - exact, kind="stable")[: count - int(quota.sum())]:
        quota[label] += 1
    generator = _generator(seed)
    drawn = [generator.permutation(np.flatnonzero(numbers == c))[: quota[c]] for c in range(len(sizes))]
    return torch.from_numpy(np.sort(np.concatenate(drawn)))


def shuffled(chosen: Tensor, seed: int) -> Tensor:
    """The same indices ``(n,)`` in a random order that the seed decides: the first of them are a random sample of all."""
    return chosen[torch.from_numpy(_generator(seed, 1).permutation(len(chosen)))]


def _generator(seed: int, *purpose: int) -> np.random.RandomState:
    return np.random.RandomState(np.array([seed % 2**32, seed // 2**32, *purpose], dtype=np.uint32))


@final
class Resized(View):
    """A data set of square images at ``side`` pixels, bilinear and antialiased, rounded to uint8 again."""

    def __init__(self, whole: Dataset, side: int) -> None:
        super().__init__(whole)
        self.side = side
        self.image_shape = (whole.image_shape[0], side, side)

    def _change(self) -> str:
        return str(self.side)

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        images, labels = self.whole.tensors(indices)
        return scaled(images, self.side), labels


def scaled(images: Tensor, side: int) -> Tensor:
    """Square images ``(n, c, h, h)`` at ``side`` pixels; uint8 stays uint8."""
    if len(images) == 0:
        return images.new_empty((0, images.shape[1], side, side))
    moved = interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else moved


@final
class OneChannel(View):
    """A data set of grey images, ``(n, 1, height, width)``: radii of every norm are those of the one channel.

    Raises:
        InputError: when a requested image has colour; names the first.
    """

    def __init__(self, whole: Dataset) -> None:
        super().__init__(whole)
        self.image_shape = (1, *whole.image_shape[1:])

    def _change(self) -> str:
        return "1 channel"

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        wanted = self.positions(indices)
        images, labels = self.whole.tensors(wanted)
        coloured = (images != images[:, :1]).flatten(1).any(1)
        if bool(coloured.any()):
            index = int(wanted[int(coloured.nonzero()[0])])
            raise InputError(f"{self.source(index) or f'image {index}'} of {self.name} has colour: one channel needs grey images")
        return images[:, :1].contiguous(), labels


def with_channels(dataset: Dataset, channels: int | None) -> Dataset:
    """The data set with 1 or 3 channels; None leaves it. InputError for any other number, or where it has others."""
    if channels not in (None, 1, 3):
        raise InputError(f"--channels {channels}: give 1 for grey images or 3")
    if channels is None or channels == dataset.image_shape[0]:
        return dataset
    if channels == 1 and dataset.image_shape[0] == 3:
        return OneChannel(dataset)
    raise InputError(f"--channels {channels}: {dataset.name} has {dataset.image_shape[0]} channels")


@final
class Relabelled(View):
    """A data set whose class ``k`` is class ``places[k]`` of ``classes``."""

    def __init__(self, whole: Dataset, classes: Sequence[str], places: Sequence[int]) -> None:
        super().__init__(whole)
        self.classes = tuple(classes)
        self._places = torch.tensor(list(places), dtype=torch.int64)
        self.labels = self._places[whole.labels]

    def _change(self) -> str | None:
        unchanged = torch.equal(self.labels, self.whole.labels)
        return None if unchanged else f"labels {self._places.tolist()}"

    def tensors(self, indices: Indices) -> tuple[Pixels, Labels]:
        images, labels = self.whole.tensors(indices)
        return images, self._places[labels]


def with_class_names(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The data set with its classes in the order of ``names``, which may hold more than the data has.

    Classes are found by name; a data set whose classes are mere numbers takes the names in that order.

    Raises:
        InputError: a class of the data is not among the names, or there are fewer names than classes.
    """
    return Relabelled(dataset, names, class_places(dataset, names))


def class_places(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """Where each class of a data set stands among names; see `with_class_names`."""
    places = {name: place for place, name in enumerate(names)}
    if _numbered(dataset) and not all(name in places for name in dataset.classes):
        if len(names) < len(dataset.classes):
            raise InputError(f"{len(names)} class names for labels 0 to {len(dataset.classes) - 1} of {dataset.name}")
        return list(range(len(dataset.classes)))
    for name in dataset.classes:
        if name not in places:
            raise InputError(f"class {name!r} of {dataset.name} is not among the class names: {_few(name, names)}")
    return [places[name] for name in dataset.classes]


def _numbered(dataset: Dataset) -> bool:
    """Whether the classes have no names but the numbers of their labels."""
    return dataset.classes == tuple(map(str, range(len(dataset.classes))))


def require_same_classes(dataset: Dataset, outputs: int, label: str) -> None:
    """Labels of named classes are a model's outputs only if it has as many; InputError otherwise."""
    if outputs == len(dataset.classes) or _numbered(dataset):
        return
    shown = ", ".join(dataset.classes[:3]) + (", ..." if len(dataset.classes) > 3 else "")
    raise InputError(
        f"model {label!r} has {outputs} outputs, and {dataset.name} {len(dataset.classes)} classes ({shown}): say which output is "
        "which class with --class-names FILE, one name a line in the order of the outputs"
    )


def _few(name: str, names: Sequence[str]) -> str:
    return did_you_mean(name, names) if len(names) <= 20 else did_you_mean(name, names).partition("Known:")[0] or "see the file"
