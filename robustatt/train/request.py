"""What is trained, on what and how: every setting of `robustatt train`, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustatt.errors import InputError, first_mistake
from robustatt.models import canonical


class TrainRequest(BaseModel):
    """All that decides a training run. ``train_eps`` is in 1/255 steps; None: the data set's default.

    Raises:
        InputError: a field is unknown or out of range (one line).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str
    data: str = "digits"
    out: Path
    width: float = 1.0
    epochs: int = Field(default=30, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    schedule: Literal["onecycle", "paper"] = "onecycle"
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=128, ge=2)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    dropout: float = Field(default=1.0, ge=0, lt=2)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    flip: bool | None = None
    crop: bool | None = None
    adversarial: Literal["fgsm", "pgd"] | None = None
    train_eps: float = Field(default=8.0, gt=0, le=255)
    data_root: Path | None = None
    download: bool = False
    label_column: str | None = None
    input_size: int | None = Field(default=None, ge=32, le=4096)
    device: str = "auto"
    half: bool = False
    resume: bool = True
    distributed: bool = False
    test_every: int | None = Field(default=None, ge=1)
    init: Path | None = None
    keep: Literal["last", "best"] = "last"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            where, said = first_mistake(error)
            raise InputError(f"{where or 'request'} {error.errors()[0]['input']!r}: {said}") from None

    @field_validator("model")
    @classmethod
    def _known(cls, name: str) -> str:
        return canonical(name)

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

    def identity(self) -> str:
        """Everything that decides the numbers, as text; where files lie and how they are kept is left out."""
        left_out = {"out", "data_root", "download", "device", "half", "resume", "test_every", "distributed"}
        decisive = self.model_dump(mode="json", exclude=left_out)
        if self.adversarial is not None:
            decisive["watched"] = True  # some images are held out, which was not always so
        return json.dumps(decisive, sort_keys=True)
