"""What is trained, on what and how: every setting of `robustatt train`, checked.

The one declaration of the settings: the command line makes its flags of it, a training plan its keys. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from robustatt.errors import InputError

Schedule = Literal["onecycle", "paper"]
Method = Literal["fgsm", "n-fgsm", "pgd-2", "pgd"]
Keep = Literal["last", "best"]
Precision = Literal["float32", "bf16"]

MACHINE = ("out", "data_root", "download", "device", "resume", "distributed")
"""Settings that are of the machine and not of the network: a training plan does not say them."""
UNDECISIVE = (*MACHINE, "half", "test_every")
"""Settings that decide no number of the training itself."""


def _about(text: str, usual: str = "", *, switch: bool = False) -> dict[str, Any]:
    """A setting's line of help; `usual` says what None stands for, `switch` that it can only be turned on."""
    return {"help": f"{text} [default: {usual}]" if usual else text, "switch": switch}


@dataclass(frozen=True)
class TrainRequest:
    """All that decides a training run. ``train_eps`` is in 1/255 steps; None: the data set's default.

    Raises:
        InputError: a value is out of range (one line).
    """

    model: str = field(metadata=_about("The network to train. See `robustatt models`."))
    out: Path = field(metadata=_about("Where to write the weights (.safetensors)."))
    data: str = field(default="digits", metadata=_about("A data set or path."))
    width: float = field(default=1.0, metadata=_about("Multiplier on all channels; 1.0 is the paper's."))
    epochs: int = field(default=30, metadata=_about("Passes over the training images."))
    seed: int = field(default=0, metadata=_about("Seed of initial weights, order and augmentation."))
    schedule: Schedule = field(default="onecycle", metadata=_about("onecycle, or paper (the published step schedule)."))
    lr: float | None = field(default=None, metadata=_about("Peak learning rate.", "the schedule's"))
    batch_size: int = field(default=128, metadata=_about("Images per batch."))
    weight_decay: float = field(default=5e-4, metadata=_about("L2 penalty on all weights."))
    dropout: float = field(default=1.0, metadata=_about("Multiplier on the paper's dropout rates; small networks want 0."))
    label_smoothing: float = field(default=0.0, metadata=_about("Label smoothing, 0 to below 1."))
    flip: bool | None = field(default=None, metadata=_about("Mirror images at random.", "by data set"))
    crop: bool | None = field(default=None, metadata=_about("Crop at random after padding by 4.", "by data set"))
    adversarial: Method | None = field(
        default=None,
        metadata=_about(
            "Train on attacked images: fgsm (Wong et al. 2020), n-fgsm (de Jorge et al. 2022), pgd-2 or pgd (2 or 7 steps). Watched "
            "by PGD-10 on 500 held-out images."
        ),
    )
    train_eps: float = field(default=8.0, metadata=_about("L-infinity radius of adversarial training, in steps of 1/255."))
    precision: Precision | None = field(
        default=None,
        metadata=_about("float32, or bf16 for the passes while the weights stay float32.", "bf16 on a GPU, else float32"),
    )
    init: Path | None = field(default=None, metadata=_about("Start from the weights of this checkpoint of the same network."))
    keep: Keep = field(
        default="last", metadata=_about("Which epoch's weights: last, or best on training images that are held out.")
    )
    test_every: int | None = field(default=None, metadata=_about("Measure test accuracy every N epochs.", "by size"))
    data_root: Path | None = field(default=None, metadata=_about(""))
    download: bool = field(default=False, metadata=_about(""))
    label_column: str | None = field(default=None, metadata=_about(""))
    input_size: int | None = field(default=None, metadata=_about(""))
    device: str = field(default="auto", metadata=_about("auto, cpu, cuda, ..."))
    half: bool = field(default=False, metadata=_about("Store the weights as float16."))
    resume: bool = field(default=True, metadata=_about("Resume an interrupted run of the same command."))
    distributed: bool = field(
        default=False, metadata=_about("Split each batch among the processes started by torchrun.", switch=True)
    )

    def __post_init__(self) -> None:
        from robustatt.models.families import canonical, family_of
        from robustatt.plan.checks import require_at_least_one, require_choice, require_number, require_seed

        for name in ("out", "init", "data_root"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        for setting in fields(self):
            if str(setting.type).startswith("float") and (value := getattr(self, setting.name)) is not None:
                object.__setattr__(self, setting.name, float(value))
        object.__setattr__(self, "model", canonical(self.model))
        require_number("--width", self.width, above=0, most=16)
        require_number("--epochs", self.epochs, least=1, most=10_000)
        require_seed(self.seed, bits=31)
        require_choice("--schedule", self.schedule, get_args(Schedule))
        if self.schedule == "paper" and family_of(self.model).published is None:
            raise InputError(f"--schedule paper: {self.model} was not published with one: use onecycle")
        require_number("--lr", self.lr, above=0)
        require_number("--batch-size", self.batch_size, least=2)
        require_number("--weight-decay", self.weight_decay, least=0)
        require_number("--dropout", self.dropout, least=0, below=2)
        require_number("--label-smoothing", self.label_smoothing, least=0, below=1)
        require_choice("--adversarial", self.adversarial, get_args(Method))
        require_number("--train-eps", self.train_eps, above=0, most=255)
        require_number("--input-size", self.input_size, least=32, most=4096)
        require_at_least_one("--test-every", self.test_every)
        require_choice("--precision", self.precision, get_args(Precision))
        require_choice("--keep", self.keep, get_args(Keep))

    @property
    def resume_path(self) -> Path:
        """Where an unfinished run keeps its state."""
        return self.out.with_suffix(".resume.pt")

    @property
    def log_path(self) -> Path:
        """The CSV log, one row an epoch."""
        return self.out.with_suffix(".csv")

    @property
    def curve_path(self) -> Path:
        """The learning curve, drawn from the log."""
        return self.out.with_suffix(".png")

    def precision_on(self, device: str) -> Precision:
        """In which precision passes are computed on a type of device, such as cpu."""
        return self.precision or ("bf16" if device == "cuda" else "float32")

    def identity(self) -> str:
        """Everything that decides the numbers, as text; where files lie and how they are kept is left out."""
        decisive = {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.name not in UNDECISIVE}
        decisive["data"] = Path(self.data).name  # a checkpoint may go on where the data lies elsewhere
        decisive["init"] = None if self.init is None else str(self.init)
        if self.adversarial is not None:
            decisive["watched"] = True  # some images are held out, which was not always so
        if self.precision is None:
            del decisive["precision"]  # files of versions without it are continued
        return json.dumps(decisive, sort_keys=True)


def settings() -> tuple[Field[Any], ...]:
    """The fields of a request in order; ``metadata["help"]`` is a line on each, empty where all commands share it."""
    return fields(TrainRequest)
