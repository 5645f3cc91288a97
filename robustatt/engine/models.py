"""The models of a plan as workers hold them: loaded and frozen once, and kept while they fit."""

from __future__ import annotations

import platform
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from robustatt.data.dataset import Dataset
from robustatt.data.labels import read_class_names
from robustatt.data.views import class_places
from robustatt.errors import RobustattError
from robustatt.evaluate.cell import as_float
from robustatt.evaluate.classifier import Classifier, Numerics, frozen
from robustatt.evaluate.fingerprint import fingerprint
from robustatt.models.wrappers import SelectedClasses
from robustatt.plan import Cell, ModelEntry, Plan
from robustatt.plan.entries import AUTO

FREEZE_IMAGES = 16  # to measure the rounding between the fast copy of a model and the original
KEPT_BYTES = 2**30  # of parameters; the least recently used model goes first

Loader = Callable[[ModelEntry], nn.Module]


@dataclass
class _Held:
    module: nn.Module
    stack: ExitStack
    fingerprint: str | None = None
    classifier: Classifier | None = None

    @property
    def size(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.module.state_dict().values())


class FrozenModels:
    """The models of a plan, each loaded and frozen when it is first used.

    Inside the context the global random state is the project's own; afterwards it is as before.
    """

    def __init__(self, load: Loader, device: torch.device, dataset: Dataset, plan: Plan) -> None:
        self._load, self.device, self.dataset, self._plan = load, device, dataset, plan
        self._numerics = Numerics(plan.precision, plan.compile)
        self._probe = as_float(dataset.tensors(range(min(FREEZE_IMAGES, len(dataset))))[0]).to(device)
        self._held: OrderedDict[ModelEntry, _Held] = OrderedDict()
        self._needed: frozenset[ModelEntry] = frozenset()
        self._random = ExitStack()

    def __enter__(self) -> FrozenModels:
        devices = [self.device] if self.device.type == "cuda" else []
        self._random.enter_context(torch.random.fork_rng(devices=devices))
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            self._held.popitem()[1].stack.close()
        self._random.close()

    def fingerprint(self, entry: ModelEntry) -> str:
        """The hash of what decides an entry's outputs; InputError if it cannot be loaded."""
        held = self._hold(entry)
        if held.fingerprint is None:
            held.fingerprint = fingerprint(held.module)
        return held.fingerprint

    def module(self, entry: ModelEntry) -> nn.Module:
        """The module as the user gave it; InputError if it cannot be loaded."""
        return self._hold(entry).module

    def get(self, entry: ModelEntry) -> Classifier:
        """The classifier of an entry; InputError if it cannot be loaded or does not take these images."""
        held = self._hold(entry)
        if held.classifier is None:
            held.classifier = held.stack.enter_context(
                frozen(held.module, entry.name, self.device, self._probe, self._numerics, entry.attention or AUTO)
            )
        return held.classifier

    def of(self, cell: Cell) -> list[Classifier]:
        """The model that a Cell attacks, and then its targets: all at once, so that none makes way for another.

        Raises:
            RobustattError: one of them is not what the sweep began with.
            InputError: one cannot be loaded or does not take these images.
        """
        bound = {cell.model: cell.model_fingerprint, **dict(cell.targets)}
        entries = {entry.name: entry for entry in self._plan.loaded if entry.name in bound}
        self._needed = frozenset(entries.values())
        for name, began_with in bound.items():
            if self.fingerprint(entries[name]) != began_with:
                raise RobustattError(f"model {name!r} on {platform.node()} is not the one this sweep began with")
        return [self.get(entries[name]) for name in (cell.model, *(name for name, _ in cell.targets))]

    def _hold(self, entry: ModelEntry) -> _Held:
        if entry not in self._held:
            self._held[entry] = _Held(self._competing(self._load(entry)), ExitStack())
            self._make_room(entry)
        self._held.move_to_end(entry)
        return self._held[entry]

    def _make_room(self, entry: ModelEntry) -> None:
        """Let go of models, the least recently used first, while those that are held are too large together."""
        for old in [old for old in self._held if old not in self._needed | {entry}]:
            if sum(held.size for held in self._held.values()) <= KEPT_BYTES:
                return
            self._held.pop(old).stack.close()

    def _competing(self, module: nn.Module) -> nn.Module:
        """The module with the outputs that the plan lets compete: all, or those of the data's classes."""
        if not self._plan.mask_classes or self._plan.class_names is None:
            return module
        return SelectedClasses(module, class_places(self.dataset, read_class_names(Path(self._plan.class_names))))
