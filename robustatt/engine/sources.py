"""Where a plan's data and models come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from robustatt import data as data_sets
from robustatt.data.dataset import Dataset
from robustatt.data.grey import looks_grey, matching
from robustatt.data.labels import read_class_names
from robustatt.data.views import Sample, shuffled, stratified, with_channels
from robustatt.engine.models import Loader
from robustatt.plan import ModelEntry, Plan


def model_loader(dataset: Dataset) -> Loader:
    """How the models of a plan are found: by name, file or outside source, for the classes of this data set."""
    from robustatt.models import resolve_entry

    def load(entry: ModelEntry) -> nn.Module:
        return resolve_entry(entry, dataset.name, len(dataset.classes)).module

    return load


def load_data(plan: Plan) -> Dataset:
    """The data set that a plan names, read in the way the plan says. Raises InputError if it cannot be."""
    names = None if plan.class_names is None or plan.mask_classes else read_class_names(Path(plan.class_names))
    return data_sets.load(
        plan.data, plan.split, root=plan.data_root, download=plan.download,
        label_column=plan.label_column, image_size=plan.input_size, class_names=names, channels=plan.channels,
    )  # fmt: skip


def match_channels(plan: Plan, dataset: Dataset, load: Loader) -> tuple[Plan, Dataset, Loader]:
    """A plan that leaves the channels open, with one channel where the data is grey and its networks take one.

    Only external networks may: the project's own take three. What was loaded to look is handed on.
    """
    if plan.channels is not None or not all(":" in entry.spec for entry in plan.loaded) or not looks_grey(dataset):
        return plan, dataset, load
    loaded = {entry: load(entry) for entry in plan.loaded}
    channels = matching(dataset, list(loaded.values()))

    def once(entry: ModelEntry) -> nn.Module:
        return loaded.pop(entry, None) or load(entry)

    return replace(plan, channels=channels), with_channels(dataset, channels), once


def drawn(dataset: Dataset, plan: Plan) -> Dataset:
    """The examples of a data set that a plan wants: a sample, or with rounds all of them, in the order in which they are taken."""
    if plan.positions_are_indices:
        return dataset
    if plan.sample is not None:
        chosen = stratified(dataset.labels, plan.sample, plan.seed)
    else:
        chosen = torch.arange(len(dataset) if plan.n is None else plan.n)
    return Sample(dataset, shuffled(chosen, plan.seed) if plan.in_rounds else chosen)
