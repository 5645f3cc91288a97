"""What is attacked in a Cell, the only judge of it, and where the results are written."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from robustatt.attack.base import Attack, Batch
from robustatt.attack.norms import Norm, measure
from robustatt.attack.rng import ExampleRng
from robustatt.attack.target_classes import choose
from robustatt.evaluate.classifier import Classifier, Prediction
from robustatt.evaluate.drift import DRIFT_METRICS, AttentionMaps, drift
from robustatt.evaluate.kept_rows import KeptRows
from robustatt.results.images import IMAGE


@dataclass
class AttackedBatch:
    """The examples of a Cell on the device, what the model says of them unattacked, and the radii to evaluate."""

    classifier: Classifier
    norm: Norm
    attack: str
    image: Float[Tensor, "n c h w"]
    label: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    radii: Float[Tensor, " k"]
    batch_size: int
    kept: KeptRows | None = None  # where the images behind some rows are kept, if they are wanted
    maps: bool = True  # whether it is looked where the model looks
    clean: Prediction = field(init=False)
    attention: list[AttentionMaps] = field(init=False)
    target_class: Int[Tensor, " n"] = field(init=False)  # the class to push each example to; -1 for any mistake
    forwards: int = 0  # images judged so far

    def __post_init__(self) -> None:
        self.forwards += len(self.label)
        self.clean = self.classifier.predict_all(self.image, self.label, self.index, self.batch_size, self.maps)
        size = (self.image.shape[2], self.image.shape[3])
        self.attention = [AttentionMaps.of(level, size) for level in self.clean.maps]
        self.target_class = torch.full_like(self.label, -1)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the maps that are compared."""
        return self.classifier.levels if self.maps else ()

    def set_target_classes(self, attack: Attack, rng: ExampleRng) -> None:
        """Choose the class each example is pushed to, if the attack is targeted."""
        if attack.targeted is not None:
            self.target_class = choose(attack.targeted, self.clean.logits, self.label, self.index, rng)

    @property
    def correct(self) -> Tensor:
        """Which examples are worth an attack: classified right without an attack, and not of the target class."""
        return (self.clean.prediction == self.label) & (self.target_class != self.label)

    def succeeded(self, positions: Tensor, prediction: np.ndarray) -> np.ndarray:
        """Which predictions are a success: a mistake, or for targeted attacks the target class."""
        target_class, label = self.target_class[positions].cpu().numpy(), self.label[positions].cpu().numpy()
        return np.asarray(np.where(target_class >= 0, prediction == target_class, prediction != label))

    @property
    def behind(self) -> list[str]:
        """What is kept behind a row: nothing, or the image, or also the attention map of each level."""
        if self.kept is None:
            return []
        return [IMAGE, *(map_columns(self.classifier) if self.kept.maps else [])]

    def batches(self) -> list[Tensor]:
        """Positions of all examples, in batches."""
        return list(torch.split(torch.arange(len(self.label), device=self.label.device), self.batch_size))

    def batch(self, positions: Tensor, eps: Tensor, restart: Tensor | None = None) -> Batch:
        """The attack problems of some examples at given radii."""
        restart = torch.zeros_like(positions) if restart is None else restart
        return Batch(
            self.image[positions], self.label[positions], eps, self.index[positions], restart,
            self.clean.logits[positions], self.target_class[positions],
        )  # fmt: skip

    def _judge(self, positions: Tensor, image: Tensor) -> Prediction:
        self.forwards += len(positions)
        return self.classifier.predict(image, self.label[positions], self.index[positions], self.maps)

    def evaluate(self, positions: Tensor, image: Tensor, eps: Tensor) -> dict[str, np.ndarray]:
        """Trusting no attack: distance and box measured, predictions made afresh, attention compared."""
        clean = self.image[positions]
        distance = measure(self.norm, clean, image, eps, self.attack, self.index[positions])
        verdict = self._judge(positions, image.clamp(0.0, 1.0))
        found = {"adv_pred": verdict.prediction, "adv_margin": verdict.margin, "distance": distance}
        size = (clean.shape[2], clean.shape[3])
        for level, before, after in zip(self.levels, self.attention, verdict.maps, strict=True):
            for metric, values in drift(before.select(positions), AttentionMaps.of(after, size)).items():
                found[f"drift_{metric}_{level}"] = values
        found |= dict(zip(self.behind, [image.clamp(0.0, 1.0), *verdict.maps], strict=False))
        return {name: values.cpu().numpy() for name, values in found.items()}


class OutcomeTable:
    """The results of a Cell while it is computed: for each column an array (examples, radii).

    `extra` names columns that only some attacks have, each with the value that its rows begin with.
    """

    def __init__(self, target: AttackedBatch, **extra: float | str) -> None:
        shape = (len(target), len(target.radii))
        drifts = [f"drift_{metric}_{level}" for level in target.levels for metric in DRIFT_METRICS]
        self.columns: dict[str, np.ndarray] = {
            "adv_pred": np.full(shape, -1, dtype=np.int64),
            "adv_margin": np.full(shape, np.nan, dtype=np.float32),
            "distance": np.full(shape, np.nan, dtype=np.float32),
            "attacked": np.zeros(shape, dtype=bool),
            "zero_grad": np.zeros(shape, dtype=bool),
            **{name: np.full(shape, np.nan, dtype=np.float32) for name in drifts},
            **{name: np.full(shape, value, np.float32 if isinstance(value, float) else object)
               for name, value in extra.items()},
        }  # fmt: skip
        self.extra = extra
        self._target = target

    def write(self, examples: np.ndarray, radius: int, found: dict[str, np.ndarray]) -> None:
        """Set the columns of some (example, radius) pairs, and hand over what is to be kept behind them."""
        kept = self._target.kept
        behind = self._target.behind
        for name in found.keys() - set(behind):
            self.columns[name][examples, radius] = found[name]
        if kept is None:
            return
        many = examples.ndim > 0
        label, clean = (values.cpu().numpy() for values in (self._target.label, self._target.clean.prediction))
        targeted = (self._target.target_class >= 0).cpu().numpy()
        for row, example in enumerate(np.atleast_1d(examples).tolist()):
            values = {name: found[name][row] if many else found[name] for name in behind}
            wrong = clean[example] == label[example] != self.columns["adv_pred"][example, radius]
            kept.write(example, radius, values, bool(wrong), bool(targeted[example]))

    def copy(self, example: int, source: int, radius: int) -> None:
        """The row of one radius backed by the same image as another's."""
        for name, values in self.columns.items():
            values[example, radius] = False if name == "attacked" else values[example, source]
        if self._target.kept is not None:
            self._target.kept.copy(example, source, radius)


def map_columns(classifier: Classifier) -> list[str]:
    """What the attention map of each level is called where it is kept (see `KeptRows`)."""
    return [f"map_{level}" for level in classifier.levels]


def leave_alone(target: AttackedBatch, ledger: OutcomeTable, examples: np.ndarray) -> None:
    """Examples that are wrong without an attack count as wrong at every radius: their row is the clean image."""
    for chunk in torch.split(torch.from_numpy(examples).to(target.label.device), target.batch_size):
        if len(chunk):
            found = target.evaluate(chunk, target.image[chunk], torch.zeros(len(chunk), device=chunk.device))
            for radius in range(len(target.radii)):
                ledger.write(chunk.cpu().numpy(), radius, found)
