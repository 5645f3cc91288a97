"""What a warning is, and every code there is with its meaning in a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CODES: dict[str, str] = {
    "input-range": "normalisation is missing, doubled, or pixels are expected in another range than [0, 1]",
    "training-mode": "a submodule works in training mode, or the model was handed over so and it matters",
    "probabilities": "the output is a softmax and not logits",
    "log-probabilities": "the output is a log-softmax and not logits",
    "non-finite": "NaN or infinite logits",
    "nan-gradient": "NaN or infinite gradients, which attacks take as zero",
    "one-logit": "one number an image was taken as the logits [0, z] of two classes",
    "randomised": "five passes over the same images differ",
    "batch-dependent": "an image's logits depend on the other images of its batch",
    "zero-gradient": "the gradient is exactly zero for a share of the images",
    "flat-at-border": "the model is flat near 0 and 1, so black and white pixels have no gradient",
    "maps-normalised": "the model's own attention maps do not sum to 1 and were divided by their sum",
    "saturation": "the probabilities of all wrong classes underflow, so cross-entropy has no gradient",
    "shattered-gradient": "the loss does not change along the gradient as the gradient says",
    "iterative-weaker": "an iterative attack misses what a single step breaks",
    "black-box-stronger": "a black-box attack breaks what gradient attacks miss",
    "transfer-stronger": "an attack crafted on another model breaks what attacks on the model itself miss",
    "noise-as-strong": "random noise breaks as much as the attack",
    "accuracy-rising": "accuracy is higher at a larger radius",
    "not-broken-at-half": "accuracy at radius 0.5 is above what any classifier can have there",
    "not-converged": "more steps or restarts still break examples",
    "vanishes-after-rounding": "the attack's successes are gone once images are rounded to 8 bits",
    "path-iterate": "images on the attack's path were mistakes but the last one is not",
    "ball-unused": "another library's attack stays far inside the ball it may use",
    "left-the-ball": "another library's attack left the ball, so its images were scaled back into it",
    "too-few-examples": "a difference between models is smaller than this many examples can show",
    "first-classes": "the first n examples lack classes that the data has",
    "seen-in-training": "test images that the model was trained on",
    "card-mismatch": "clean accuracy is far from what the model's card says",
    "chance-accuracy": "clean accuracy is no better than always guessing one class",
    "label-order": "the classes of model and data are in a different order",
    "eps-unit": "every radius is far too small or far too large for its norm",
}

UNEXPLAINED = "chance-accuracy"

ZERO_GRADIENT_SHARE = 0.05
"""Share of images without any gradient. A ReLU network has no image on which every path is dead; a twentieth
leaves room for one odd image, and is as much accuracy as it can distort."""


@dataclass(frozen=True)
class HealthWarning:
    """One reason for doubt: what was found and what it means, what to do, and the numbers behind it.

    `finding` and `advice` are whole sentences. `model` and `attack` are empty where it concerns all of them.
    """

    code: str
    finding: str
    advice: str
    model: str = ""
    attack: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def message(self) -> str:
        """The finding and the advice in one text."""
        return f"{self.finding} {self.advice}".strip()

    def as_dict(self) -> dict[str, Any]:
        """As summary.json holds it."""
        return {
            "code": self.code, "message": self.message, "model": self.model, "attack": self.attack,
            "evidence": dict(self.evidence), "advice": self.advice,
        }  # fmt: skip

    @staticmethod
    def from_dict(entry: Mapping[str, Any]) -> HealthWarning:
        """From summary.json, whose message is the finding and the advice in one text."""
        advice = entry.get("advice", "")
        finding = entry["message"].removesuffix(advice).rstrip()
        model, attack, evidence = (entry.get(key) for key in ("model", "attack", "evidence"))
        return HealthWarning(entry["code"], finding, advice, model or "", attack or "", evidence or {})


def distinct(warnings: Iterable[HealthWarning]) -> list[HealthWarning]:
    """The same reason once for each model and attack; a warning about an attack is not repeated for its model, and
    accuracy like chance only where no other finding about the model explains it."""
    listed = list(warnings)
    explained = {entry.model for entry in listed if not entry.attack and entry.code != UNEXPLAINED}
    listed = [entry for entry in listed if entry.code != UNEXPLAINED or entry.model not in explained]
    of_attacks = {(entry.code, entry.model) for entry in listed if entry.attack}
    kept: dict[tuple[str, str, str], HealthWarning] = {}
    for entry in listed:
        if entry.attack or (entry.code, entry.model) not in of_attacks:
            kept.setdefault((entry.code, entry.model, entry.attack), entry)
    return list(kept.values())
