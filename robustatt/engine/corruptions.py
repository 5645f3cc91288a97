"""Which corruptions are evaluated, and where their images come from: drawn, or read from published ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from robustatt import data as data_sets
from robustatt.attack.corruption import CITATION, CorruptionRecipe, corruption_recipe
from robustatt.corruptions.kinds import BENCHMARK, GROUPS, KINDS, RGB_ONLY, SEVERITIES
from robustatt.data.places import CORRUPTION_LABELS, is_corruption_path, parts_of
from robustatt.errors import InputError, did_you_mean, said_of
from robustatt.plan import Plan

if TYPE_CHECKING:
    from robustatt.data import Dataset

USUAL_CLEAN = ("cifar10", "cifar100")
"""Whose published corruptions come without the clean images; they are recognised by their labels."""


def published_kinds(folder: Path) -> dict[str, str]:
    """The corruptions whose images lie in a folder, each with the data set of a severity, `{}` standing for it; none if it holds none.

    Either ``labels.npy`` and ``<corruption>.npy``, as CIFAR-10-C, or ``<corruption>/<severity>/<class>/``, as ImageNet-C, which may
    lie in folders of its groups (``noise/gaussian_noise``).
    """
    if (folder / CORRUPTION_LABELS).is_file():
        return {kind: f"{folder}:{kind}:{{}}" for kind in KINDS if (folder / f"{kind}.npy").is_file()}
    found: dict[str, str] = {}
    for kind in KINDS:
        for base in (folder, *(folder / group for group in GROUPS)):
            if any((base / kind / str(severity)).is_dir() for severity in SEVERITIES):
                found.setdefault(kind, f"{base / kind}/{{}}")
    return found


def chosen_corruptions(
    plan: Plan, kinds: Sequence[str] | None, severities: Sequence[int], clean: str | None
) -> tuple[Plan, list[CorruptionRecipe]]:
    """The plan on the clean images, and a recipe for each corruption; `kinds` None: those of the benchmark.

    Raises:
        InputError: published images that do not fit the clean ones, or of which those are not known.
    """
    folder = Path(plan.data)
    there = published_kinds(folder) if folder.is_dir() else {}
    base, kind, severity = parts_of(plan.data)
    if kind in KINDS and is_corruption_path(plan.data):
        chosen = f"--corruption {kind} --severity {severity}" if severity else f"--corruption {kind}"
        raise InputError(
            f"--data {plan.data} is corrupted already: name the folder and what to read of it, --data {base} {chosen}"
        )
    if not there:
        if clean is not None:
            raise InputError(f"--clean {clean}: only for published corrupted images, and {plan.data} holds none: leave it out")
        return plan, [corruption_recipe(kind) for kind in kinds or BENCHMARK]
    for kind in kinds or ():
        if kind not in there:
            raise InputError(f"{folder} has no images of {kind}: {did_you_mean(kind, there)}")
    wanted = [kind for kind in there if kind in (kinds or BENCHMARK)] or list(there)
    for kind in wanted:
        _require_severities(there[kind], kind, severities)
    names = (clean,) if clean is not None else USUAL_CLEAN
    dataset = _clean(plan, there[wanted[0]].format(severities[0]), names)
    return replace(plan, data=dataset.name), [_read(there[kind], kind, severities, dataset) for kind in wanted]


def require_drawable(recipes: Sequence[CorruptionRecipe], channels: int) -> None:
    """InputError if a corruption cannot be drawn here, on images of so many channels."""
    drawn = [recipe.kind for recipe in recipes if recipe.images is None]
    for kind in drawn:
        if kind in RGB_ONLY and channels != 3:
            raise InputError(f"--corruption {kind} colours the image, and these are grey: leave it out, or give --channels 3")
    if "spatter" in drawn and find_spec("cv2") is None:
        raise InputError("--corruption spatter needs OpenCV: pip install 'robustatt[corruptions]', or leave it out")


def _require_severities(images: str, kind: str, severities: Sequence[int]) -> None:
    """InputError if published images lie in a folder for each severity, and one that is wanted is not there."""
    folder = Path(images.removesuffix("/{}"))
    there = [severity for severity in SEVERITIES if (folder / str(severity)).is_dir()]
    if folder.is_dir() and not set(severities) <= set(there):
        only = ",".join(map(str, there))
        raise InputError(f"{folder} holds severities {only} of {kind}: choose among them, such as --severity {only}")


def _clean(plan: Plan, images: str, names: Sequence[str]) -> Dataset:
    """The clean images of some corrupted ones: of several data sets the one that lies here and has the same labels."""
    labels = data_sets.load(images).labels
    for name in names:
        try:
            found = data_sets.load(
                name, plan.split, root=plan.data_root, download=plan.download and len(names) == 1, image_size=plan.input_size
            )
        except InputError:
            if len(names) == 1:
                raise
            continue
        if len(names) == 1 or (len(found.labels) == len(labels) and bool((found.labels == labels).all())):
            return found
    raise InputError(
        f"{plan.data} holds corrupted images only, and accuracy and attention are compared with the clean ones: "
        "name their data set, in the same order, such as --clean cifar10 --data-root DIR"
    )


def _read(images: str, kind: str, severities: Sequence[int], clean: Dataset) -> CorruptionRecipe:
    """The recipe that reads published images, after a look at every severity that is wanted."""
    from robustatt.attack.corrupting import published

    digest = hashlib.sha256()
    for severity in severities:
        where = images.format(severity)
        with said_of(f"corruption {kind}"):
            found = published(where, clean.image_shape[1:])
        if len(found) != len(clean):
            raise InputError(
                f"{where} holds {len(found)} images and {clean.name} {len(clean)}: they must be the same, in the same order"
            )
        different = (found.labels != clean.labels).nonzero()
        if len(different):
            first = int(different[0])
            raise InputError(
                f"{where}: image {first} has label {int(found.labels[first])} and that of {clean.name} {int(clean.labels[first])}: "
                "they must be the same images in the same order"
            )
        digest.update(f"{severity} {found.fingerprint} ".encode())
    return CorruptionRecipe(
        name=kind,
        algorithm="corruption",
        kind=kind,
        citation=f"{CITATION}, published images",
        images=images,
        content=digest.hexdigest(),
    )
