"""The Python interface: `robustatt.sweep(model, (images, labels), ...)` and its result."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial
from numbers import Real
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset

from robustatt import data as data_sets
from robustatt.attack.recipe import Recipe
from robustatt.data.adopt import adopt
from robustatt.data.dataset import Dataset
from robustatt.data.grey import matching
from robustatt.data.views import with_channels
from robustatt.engine.adversarial import AdversarialExamples, saved_in
from robustatt.engine.budget import Budget
from robustatt.engine.models import Loader
from robustatt.engine.sources import load_data, model_loader
from robustatt.engine.sweep import run
from robustatt.eps import MAX_RADII, STEP
from robustatt.errors import InputError, RunInterrupted
from robustatt.evaluate.module_state import default_modes
from robustatt.plan import Grids, Limits, ModelEntry, Plan, SavedImages, attack_entry, model_entries, radii_by_attack
from robustatt.plan.entries import AUTO, attending
from robustatt.plan.limits import GateRule
from robustatt.progress import NoSweepProgress, SweepProgress
from robustatt.result import Result, load_result

__all__ = ["AdversarialExamples", "Result", "load_data", "load_result", "model_loader", "sweep"]

Data = tuple[Any, Any] | Iterable[Any] | Mapping[str, Any] | TorchDataset[Any] | Dataset | str | Path
Radius = float | Fraction
Radii = str | Radius | Sequence[str | Radius] | Mapping[str, str | Radius | Sequence[Radius]]
Attack = str | Path | Recipe | Mapping[str, Any]
Models = nn.Module | str | Mapping[str, nn.Module]


@default_modes()
def sweep(
    model: Models,
    data: Data,
    attacks: Attack | Sequence[Attack] = ("fgsm",),
    eps: Radii | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    *,
    n: int | None = None,
    sample: int | None = None,
    split: str = "test",
    independent: bool = False,
    drift_n: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    attention: str = AUTO,
    save_images: int | str | None = None,
    save_images_at: str = "",
    surrogate: Models | Sequence[str] | None = None,
    time: str | float | None = None,
    until: str | float | None = None,
    against: str | Path | None = None,
    progress: bool | None = None,
) -> Result:
    """Attack a model over a grid of radii and say how accuracy falls.

    Args:
        model: any module from images in [0, 1], float32 (batch, channels, height, width), to logits (batch, classes);
            or a name such as "vgg_att3"; or several modules by label. It is not changed: flags, gradients, hooks and
            the random state are as before afterwards, also when this raises. It may return the logits as ``.logits``,
            under the key "logits" or first in a tuple, and one logit an image for two classes; weights may be of
            any floating dtype. A program of torch.export is taken too.
        data: (images, labels) with images float in [0, 1] or uint8 and labels as class indices or names; a DataLoader, a
            torch Dataset, batches, or dicts of image and label (see docs/data.md); or a data set or its name.
        attacks: names of recipes, recipe files, recipes, or their keys, such as
            ``{"name": "pgd-100", "algorithm": "pgd", "steps": 100}``.
        eps: a grid as text, such as "1..16", which counts steps of 1/255 for L-infinity and is plain for L2 and L1 ("0.5,1");
            or numbers in the scale of pixels in [0, 1], for every norm; or either for each attack by name. By default
            the usual grid of each norm. 0 is always evaluated.
        out: a folder for records and summary, from which an interrupted sweep resumes; nothing is kept if None.
        seed: the seed of every random start.
        n: the first n examples; all if None.
        sample: this many examples drawn by the seed, classes in proportion; their indices stay those of the data.
        split: which part of a named data set.
        independent: attack every radius afresh instead of searching each example's threshold.
        drift_n: on how many examples drift is measured with all steps at every radius; 0: none. By default up to 100, fewer
            where that would cost much more than the sweep.
        batch_size: images a batch; found for this machine if None.
        device: "auto", "cpu", "cuda", ...
        attention: which maps are recorded (see docs/attention.md): "auto" for those that are found, Grad-CAM saliency where none
            are; "none" for saliency; or a glob over names of submodules and levels, such as "layer4.*.spatial".
        save_images: of how many examples, or of "all", the image at the radius where it breaks is kept, for `Result.adversarial`.
        save_images_at: radii as text, such as "4/255", at which their images are kept too.
        surrogate: models on which the examples are crafted too, to be tested on every model (see docs/transfer-attacks.md): "all"
            for each model on all others; labels of models, or names; a module; or modules by label.
        time: stop after this many seconds, or "10m", "2h": examples are taken in a random order (`seed`), in rounds over all models and
            attacks (see docs/method.md); the same call with `out` goes on.
        until: stop when every 95 % interval of accuracy is at most this many points to either side; "2:LABEL/ATTACK" for one curve.
        against: the file of a reference: stop when the verdict of the gate on this run is known (see docs/gate.md).
        progress: whether a progress bar is shown on standard error; by default in a terminal and in Jupyter.

    Raises:
        InputError: the request cannot be met; the message says what would be right.
        RunInterrupted: the run stopped half way (a model that returned NaN, say); the message says what is on disk.
    """
    limits, began = Limits.parse(time, until, None if against is None else GateRule(str(against))), monotonic()
    dataset = _dataset(data, split, n)
    entries, load = _models(model, dataset)
    entries = attending(entries, [attention])
    surrogates, load = _surrogates(surrogate, entries, load, dataset)
    if isinstance(data, str | Path) and not isinstance(model, str):
        dataset = with_channels(dataset, matching(dataset, [load(entry) for entry in entries]))
    loaded = tuple(map(_recipe, _several(attacks)))
    common, grids = _radii(loaded, eps)
    plan = Plan(
        models=entries,
        attacks=loaded,
        eps=common,
        grids=grids,
        data=dataset.name,
        split=dataset.split,
        n=n,
        sample=sample,
        drift_n=drift_n,
        seed=seed,
        independent=independent,
        batch_size=batch_size,
        device=device,
        images=SavedImages.parse(save_images, save_images_at),
        surrogates=surrogates,
        limits=limits,
    )
    budget = Budget.of(plan, began)
    if out is not None:
        with _watch(progress, budget) as bar:
            return Result(run(plan, dataset, load, Path(out), bar, budget=budget), partial(saved_in, Path(out)))
    with tempfile.TemporaryDirectory(prefix="robustatt-") as folder, _watch(progress, budget) as bar:
        try:
            outcome = run(plan, dataset, load, Path(folder), bar, gallery=False, budget=budget)
            saved = saved_in(Path(folder)) if plan.images is not None else None
            return Result(outcome, lambda: saved)
        except RunInterrupted as stopped:  # what is on disk there is gone at once
            raise RunInterrupted(stopped.reason, stopped.exit_code) from stopped.__cause__


def _dataset(data: Data, split: str, n: int | None) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return data_sets.load(data, split)
    return adopt(data, n)


def _models(model: Models, dataset: Dataset, kind: str = "model") -> tuple[tuple[ModelEntry, ...], Loader]:
    if isinstance(model, str):
        return model_entries([model], []), model_loader(dataset)
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module | Mapping):
        raise InputError(f"{kind} is a {type(model).__name__}: give a torch.nn.Module, a name, or modules by label")
    modules = {kind: model} if isinstance(model, nn.Module) else dict(model)
    for label, module in modules.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"{kind} {label!r} is a {type(module).__name__}: give a torch.nn.Module")
    entries = tuple(ModelEntry(name=label, spec=type(module).__qualname__) for label, module in modules.items())
    return entries, lambda entry: modules[entry.name]


def _surrogates(
    surrogate: Models | Sequence[str] | None, models: tuple[ModelEntry, ...], load: Loader, dataset: Dataset
) -> tuple[tuple[ModelEntry, ...], Loader]:
    """The surrogates, and what loads them as well as the models; a label of a model stands for that model."""
    if surrogate is None:
        return (), load
    names = [surrogate] if isinstance(surrogate, str) else surrogate
    if isinstance(names, Sequence) and all(isinstance(name, str) for name in names):
        entries, load_surrogate = model_entries(names, []), model_loader(dataset)
    else:
        entries, load_surrogate = _models(surrogate, dataset, "surrogate")  # type: ignore[arg-type]  # and says what is wrong
    return entries, lambda entry: load(entry) if entry in models else load_surrogate(entry)


def _several(attacks: Attack | Sequence[Attack]) -> Sequence[Attack]:
    return [attacks] if isinstance(attacks, str | Path | Recipe | Mapping) else attacks


def _recipe(attack: Attack) -> Recipe:
    if isinstance(attack, Recipe):
        return attack
    return attack_entry(str(attack) if isinstance(attack, Path) else attack)


def _watch(progress: bool | None, budget: Budget) -> AbstractContextManager[SweepProgress]:
    """A progress bar, or none; by default a bar where it can be seen."""
    from robustatt.progress import SweepBar, in_jupyter

    seen = in_jupyter() or sys.stderr.isatty() if progress is None else progress
    return SweepBar(budget.seconds) if seen else nullcontext(NoSweepProgress())


def _radii(attacks: Sequence[Recipe], eps: Radii | None) -> tuple[tuple[Fraction, ...], Grids]:
    """The common grid and the grids of single attacks: text in the unit of each norm, numbers in [0, 1] pixel scale."""
    if eps is None:
        return radii_by_attack(attacks, [])
    if isinstance(eps, Mapping):
        texts = [f"{name}={value if isinstance(value, str) else _as_text(value)}" for name, value in eps.items()]
        return radii_by_attack(attacks, texts)
    values = [eps] if isinstance(eps, str | float | int | Fraction) else list(eps)
    if values and all(isinstance(value, str) for value in values):
        return radii_by_attack(attacks, [",".join(map(str, values))])
    radii = _numbers(values)
    for value in radii if any(entry.norm == "linf" and not entry.unbounded for entry in attacks) else ():
        if 1 < value <= 255 and value.denominator == 1:
            raise InputError(f'eps: {float(value)!r} is a radius beyond [0, 1]: for steps of 1/255 write text, such as "{value}"')
    return radii, ()


def _as_text(eps: float | Fraction | Sequence[float | Fraction]) -> str:
    numbers = _numbers([eps] if isinstance(eps, float | int | Fraction) else list(eps))
    return ",".join(f"{value.numerator}/{value.denominator}" for value in numbers) or "0"


def _numbers(values: Sequence[Any]) -> tuple[Fraction, ...]:
    """Radii as numbers, exact; a float that is a multiple of 1/2550 to rounding is taken as that multiple."""
    radii = set()
    for value in values:
        number = isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value))
        exact = None if not number else value if isinstance(value, Fraction) else Fraction(repr(float(value)))
        if exact is None or exact < 0:
            raise InputError(f"eps: {value!r} is not a radius: give numbers of 0 or more")
        steps = round(exact / STEP * 10)
        near = Fraction(steps, 10) * STEP
        radii.add(near if abs(near - exact) < Fraction(1, 10**9) else exact)
    if len(radii) > MAX_RADII:
        raise InputError(f"eps: {len(radii)} radii are too many: give at most {MAX_RADII}")
    return tuple(sorted(radii - {Fraction(0)}))
