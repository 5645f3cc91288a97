"""What decides the weights of a network, as a request asks for it and as a card tells it: the two can be compared."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from robustatt.data import SOURCES
from robustatt.errors import InputError
from robustatt.models import Card, bundled, bundled_path, read_card
from robustatt.train.images import augmentation
from robustatt.train.request import TrainRequest, settings
from robustatt.train.schedule import peak_rate

SAID = ("schedule", "lr", "batch_size", "label_smoothing", "flip", "crop", "stored_as", "selection")
"""What the card of every trained network has in its history."""


@dataclass(frozen=True)
class Origin:
    """The network whose weights a training starts from."""

    name: str
    data: str
    epochs: int | None

    def __str__(self) -> str:
        return f"{self.name} trained on {self.data} for {self.epochs} epochs"


@dataclass(frozen=True)
class TrainingRecipe:
    """The settings of `TrainRequest` that decide weights, with nothing left to a default; ``data`` is the set's name.

    ``epochs`` are those that were planned. ``input_size`` is None where the images keep their own size, ``precision`` where the device decides.
    """

    model: str
    data: str
    width: float
    epochs: int | None
    seed: int | None
    schedule: str
    lr: float
    batch_size: int
    weight_decay: float
    dropout: float
    label_smoothing: float
    flip: bool
    crop: bool
    adversarial: str | None
    train_eps: str | None
    init: Origin | None
    precision: str | None
    keep: str
    input_size: int | None
    half: bool

    @staticmethod
    def of_request(request: TrainRequest) -> TrainingRecipe:
        """What a request asks for.

        Raises:
            InputError: the checkpoint it starts from cannot be read.
        """
        flip, crop = augmentation(request)
        init = None if request.init is None else read_card(request.init)
        return TrainingRecipe(
            model=request.model, data=Path(request.data).name, width=request.width, epochs=request.epochs, seed=request.seed,
            schedule=request.schedule, lr=peak_rate(request), batch_size=request.batch_size,
            weight_decay=request.weight_decay, dropout=request.dropout, label_smoothing=request.label_smoothing,
            flip=flip, crop=crop, adversarial=request.adversarial,
            train_eps=None if request.adversarial is None else f"{request.train_eps:g}/255",
            init=None if init is None else Origin(init.name, init.data, init.epochs),
            precision=request.precision, keep=request.keep, input_size=request.input_size, half=request.half,
        )  # fmt: skip

    @staticmethod
    def of_card(card: Card) -> TrainingRecipe:
        """What a card says was done. Cards of older versions do not say what then had its default.

        Raises:
            InputError: it does not say how the weights came to be.
        """
        history, attacked = card.history, card.adversarial
        missing = [key for key in SAID if key not in history]
        if missing:
            raise InputError(f"the card of {card.name} does not say its {missing[0]}, so `robustatt train` did not write it")
        init = history.get("init")
        return TrainingRecipe(
            model=card.name, data=card.data, width=card.width, epochs=history.get("epochs_planned", card.epochs), seed=card.seed,
            schedule=history["schedule"], lr=history["lr"], batch_size=history["batch_size"],
            weight_decay=history.get("weight_decay", TrainRequest.weight_decay), dropout=card.options.get("dropout", 1.0),
            label_smoothing=history["label_smoothing"], flip=history["flip"], crop=history["crop"],
            adversarial=attacked.method if attacked else None, train_eps=attacked.eps if attacked else None,
            init=None if init is None else Origin(init["name"], init["data"], init["epochs"]),
            precision=history.get("precision", "float32"), keep="best" if "best" in history["selection"] else "last",
            input_size=card.input_size, half=history["stored_as"] == "float16",
        )  # fmt: skip

    def differences(self, other: TrainingRecipe) -> list[str]:
        """Where another recipe differs from this one, such as ``epochs 3, not 20``; an ``input_size`` or ``precision`` of None is any."""
        found = []
        for name in (part.name for part in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and not (name in ("input_size", "precision") and mine is None):
                found.append(f"{name} {theirs}, not {mine}")
        return found

    def command(self, out: str) -> str:
        """The command that makes these weights; DIR stands for the folder with the data, FILE for weights not bundled."""
        flags: list[str] = []
        for setting in settings():
            name = setting.name
            if name == "data":
                flags.append(f"--data {self.data}" if self.data in SOURCES else f"--data DIR/{self.data}")
                if self.data in SOURCES and SOURCES[self.data].downloaded:
                    flags.append("--data-root DIR")
            elif name == "init" and self.init is not None:
                flags.append(f"--init {self._bundled_origin() or 'FILE'}")
            elif name not in ("out", "init") and hasattr(self, name) and not self._is_default(name):
                flags.append(_flag(name, getattr(self, name)))
        return " ".join(["robustatt train", *flags, f"--out {out}"])

    def _bundled_origin(self) -> str | None:
        """The bundled weights that training started from, as a path in the repository, if they are still the same."""
        if self.init is None or self.init.name not in bundled().get(self.init.data, ()):
            return None
        path = bundled_path(self.init.name, self.init.data)
        found = read_card(path)
        same = Origin(found.name, found.data, found.epochs) == self.init
        return f"robustatt/weights/{path.parent.name}/{path.name}" if same else None

    def _is_default(self, name: str) -> bool:
        """Whether a setting need not be said; model, width, epochs and seed always are."""
        value = getattr(self, name)
        if name in ("model", "width", "epochs", "seed"):
            return False
        usual = TrainRequest(model=self.model, out=Path(), data=self.data, schedule=self.schedule)  # type: ignore[arg-type]
        if name in ("flip", "crop"):
            return bool(value == augmentation(usual)[name == "crop"])
        if name == "precision":
            return value in (None, "float32")
        if name == "lr":
            return bool(value == peak_rate(usual))
        if name == "input_size":
            return value in (None, SOURCES[self.data].side if self.data in SOURCES else 32)
        return bool(value in (None, getattr(TrainRequest, name)))


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    if name == "train_eps":
        return f"--{flag} {str(value).removesuffix('/255')}"
    return f"--{flag} {value:g}" if isinstance(value, float) else f"--{flag} {value}"
