"""Where a plan's data and models come from."""

from __future__ import annotations

from torch import nn

from robustatt import data as data_sets
from robustatt.data.base import Dataset
from robustatt.data.sample import Sample, stratified
from robustatt.engine.models import Loader
from robustatt.plan import ModelEntry, Plan


def model_loader(dataset: Dataset) -> Loader:
    """How the models of a plan are found: by name, file or outside source, for the classes of this data set."""
    from robustatt.models import resolve

    def load(entry: ModelEntry) -> nn.Module:
        return resolve(
            entry.spec,
            weights=entry.weights,
            data=dataset.name,
            classes=len(dataset.classes),
            normalize=entry.normalize,
        ).module

    return load


def load_data(plan: Plan) -> Dataset:
    """The data set that a plan names, read in the way the plan says. Raises InputError if it cannot be."""
    return data_sets.load(
        plan.data, plan.split, root=plan.data_root, download=plan.download,
        label_column=plan.label_column, image_size=plan.input_size,
    )  # fmt: skip


def drawn(dataset: Dataset, plan: Plan) -> Dataset:
    """The examples of a data set that a plan wants, if it wants a sample of them."""
    if plan.sample is None:
        return dataset
    return Sample(dataset, stratified(dataset.labels, plan.sample, plan.seed))
