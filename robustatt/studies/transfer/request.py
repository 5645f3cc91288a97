"""What a transfer is asked to measure, checked as far as that goes without data or models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robustatt.errors import InputError
from robustatt.plan import ModelEntry
from robustatt.plan.checks import require_at_least_one, require_one_choice, require_seed, require_some, require_unique
from robustatt.studies.transfer.result import TransferSettings


@dataclass(frozen=True)
class TransferRequest:
    """What to measure.

    ``data`` are names or paths, ``names`` what they are called in the results (by default the name, or the last part
    of the path). ``trained_on`` says whose bundled weights the paper's networks have, and how many
    outputs a torchvision or timm network has unless ``classes`` does. ``folds`` serve sets without a test part.
    ``n`` and ``sample`` limit each part of a set: the first so many, or so many drawn by ``seed``. ``input_size`` is
    the side of the images for external networks; the paper's have their own.
    """

    models: tuple[ModelEntry, ...]
    data: tuple[str, ...]
    trained_on: str = "cifar10"
    classes: int | None = None
    folds: int = 5
    n: int | None = None
    sample: int | None = None
    seed: int = 0
    data_root: Path | None = None
    download: bool = False
    label_column: str | None = None
    input_size: int | None = None
    device: str = "auto"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_some(self.models, "no model: give at least one, such as --model vgg_att3")
        require_some(self.data, "no data: give at least one set, such as --data stl10 or a folder")
        require_unique("model", [entry.name for entry in self.models])
        require_unique("data", list(self.data))
        if self.folds < 2:
            raise InputError(f"--folds {self.folds}: give at least 2")
        require_one_choice(self.n, self.sample, "images")
        for flag, value in (("-n", self.n), ("--sample", self.sample), ("--input-size", self.input_size)):
            require_at_least_one(flag, value)
        require_seed(self.seed, bits=32)  # scikit-learn takes no more

    def labels(self) -> dict[str, str]:
        """What each data set is called in the results."""
        if self.names:
            return dict(zip(self.data, self.names, strict=True))
        short = [Path(spec).name or spec for spec in self.data]
        return {spec: name if short.count(name) == 1 else spec for spec, name in zip(self.data, short, strict=True)}

    def settings(self) -> TransferSettings:
        """What decides the numbers besides models and data."""
        return TransferSettings(
            folds=self.folds, n=self.n, sample=self.sample, seed=self.seed, trained_on=self.trained_on, input_size=self.input_size
        )
