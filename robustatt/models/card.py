"""The card in the header of a checkpoint: what the network is and how its weights came to be. Read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from robustatt.errors import InputError, first_mistake
from robustatt.version import __version__


class AdversarialTraining(BaseModel):
    """How the images of training were attacked: ``method`` as in `robustatt train --adversarial`, a norm and a radius as text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    norm: str = "linf"
    eps: str


class Card(BaseModel):
    """What a checkpoint says of itself: accuracy as a share, mean and std of images in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    width: float
    classes: int
    class_names: tuple[str, ...] = ()
    input_size: int = 32
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    data: str
    data_fingerprint: str = ""
    clean_accuracy: float | None = None
    seed: int | None = None
    epochs: int | None = None
    code_version: str = __version__
    adversarial: AdversarialTraining | None = None
    history: dict[str, Any] = Field(default_factory=dict)

    @property
    def accuracy(self) -> str:
        """Clean test accuracy as tables show it, such as ``83.50 %``; a dash where it was not measured."""
        return "-" if self.clean_accuracy is None else f"{100 * self.clean_accuracy:.2f} %"


def damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is not a complete safetensors file, which the project's own networks need (truncated, or another format): {error}"
    )


def read_card(path: str | Path) -> Card:
    """The card of a checkpoint, without reading its weights.

    Raises:
        InputError: no such file, not a safetensors file, or no card in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error) from error
    return parse_card(path, metadata)


def read_cards(folder: Path) -> dict[str, Card]:
    """The cards of all checkpoints in a folder, by file name without its ending."""
    return {path.stem: read_card(path) for path in sorted(folder.glob("*.safetensors"))}


def parse_card(path: Path, metadata: dict[str, str]) -> Card:
    if "card" not in metadata:
        raise InputError(f"{path} has no card, so `robustatt train` did not make it: load it as an outside model")
    try:
        return Card.model_validate_json(metadata["card"])
    except ValidationError as error:
        where, said = first_mistake(error)
        raise InputError(f"{path}: the card's {where or 'text'} is wrong: {said}") from error
