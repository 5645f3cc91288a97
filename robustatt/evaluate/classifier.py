"""The model under evaluation: a frozen copy of the user's, made fast, and checked against the original.

The logits of the fast copy differ from the original's by rounding only. Every prediction whose lead is not clearly larger
than that is made again by the original, so that the recorded labels are those of the user's own model. On request the copy
is compiled, and predictions are first made in bfloat16, on the same terms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustatt.attack.border import border_margin
from robustatt.attack.losses import logit_margin
from robustatt.attention import Heads, Maps, Own, find
from robustatt.attention.protocol import WrongMap
from robustatt.errors import InputError, NonFiniteLogits, first_line, raised_by
from robustatt.evaluate.fast_copy import fast_copy
from robustatt.evaluate.gradcam import PROBE_IMAGES, last_spatial_layer, logits_and_cam
from robustatt.evaluate.model_outputs import standard
from robustatt.evaluate.module_state import borrowed, default_modes, evaluation_mode, seeded
from robustatt.plan.entries import AUTO
from robustatt.results.columns import GRADCAM

SAFETY = 8.0  # how many times the measured rounding error a lead must exceed to be believed
PROBED_MAPS = 4  # images on which a network's own maps are checked first


@dataclass(frozen=True)
class Numerics:
    """How a model is run.

    `precision` "bf16-screen": predictions are made in bfloat16, and again in float32 where their lead is within the
    measured error; attacks stay in float32. `compiled`: by torch.compile, which takes a minute first.
    """

    precision: str = "float32"
    compiled: bool = False


@dataclass(frozen=True)
class Prediction:
    """What the model says of a batch of images: predictions, margins of the true class, and where it looks.

    A map for each of the classifier's levels: attention, or Grad-CAM saliency of a network without attention.
    """

    prediction: Int[Tensor, " n"]
    margin: Float[Tensor, " n"]
    logits: Float[Tensor, "n classes"]
    maps: list[Float[Tensor, "n h w"]]

    @staticmethod
    def joined(parts: Sequence[Prediction]) -> Prediction:
        """Of several batches, one after the other."""
        return Prediction(
            torch.cat([part.prediction for part in parts]),
            torch.cat([part.margin for part in parts]),
            torch.cat([part.logits for part in parts]),
            [torch.cat(level) for level in zip(*[part.maps for part in parts], strict=True)],
        )


@dataclass(frozen=True)
class _Ahead:
    """Predictions with maps made before they were asked for."""

    image: Tensor
    label: Tensor
    index: Tensor
    batch_size: int
    prediction: Prediction

    def answers(self, image: Tensor, label: Tensor, index: Tensor, batch_size: int) -> bool:
        """Whether these are the predictions asked for, to the last bit."""
        same = batch_size == self.batch_size and image.shape == self.image.shape
        return same and all(map(torch.equal, (image, label, index), (self.image, self.label, self.index)))


class Classifier:
    """A frozen classifier from images in [0, 1] to logits. Build it by `frozen`, which leaves the original untouched."""

    #: the coarsest floating dtype that an image passes through: a change of it below that rounding is lost
    dtype: torch.dtype

    def __init__(
        self, original: nn.Module, label: str, device: torch.device, probe: Float[Tensor, "n c h w"],
        numerics: Numerics, attention: str, heads: Heads,
    ) -> None:  # fmt: skip
        self.label = label
        self.device = device
        self._ahead: _Ahead | None = None
        self.seen = standard(original, label, probe)
        self.original = original = self.seen.module
        self.dtype, self.classes = self.seen.dtype, int(self.seen.logits.shape[1])
        self.reader = find(original, label, probe[:PROBED_MAPS], attention, heads)
        self.attended, self.unnormalised = self.reader.levels, self.reader.unnormalised
        self.fast, self.memory_format, self.rounding = fast_copy(self.seen)
        self._layer = None if self.attended else last_spatial_layer(self.fast, self._in_format(probe[:PROBE_IMAGES]))
        self._forward: Callable[[Tensor], Tensor] = self.fast
        self.box_margin = border_margin(self.logits, probe)
        self._attend: Callable[[Tensor], tuple[Tensor, Maps]] = lambda image: self.reader.attend(self.fast, image)
        if numerics.compiled:
            self._compile(self._in_format(probe))
        self.screen = self._bfloat16_error(probe) if self._may_screen(numerics) else None

    def _may_screen(self, numerics: Numerics) -> bool:
        return numerics.precision == "bf16-screen" and self.dtype == torch.float32

    @property
    def reason(self) -> str:
        """Why no attention is read, where it was looked for and not found."""
        return self.reader.reason

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the maps of a verdict: attended levels, or ``gradcam`` for a network without attention.

        Empty if the network has no layer that Grad-CAM could be taken at.
        """
        return self.attended or ((GRADCAM,) if self._layer else ())

    @property
    def tolerance(self) -> float:
        """The lead (in logits) below which the fast copy's prediction is made again by the original."""
        return SAFETY * self.rounding

    def logits(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """The fast copy's logits; differentiable with respect to the image."""
        return self._forward(self._in_format(image))

    def predict(
        self, image: Float[Tensor, "n c h w"], label: Int[Tensor, " n"], index: Int[Tensor, " n"], maps: bool = True
    ) -> Prediction:
        """Fresh predictions in a forward pass of their own, with `maps` or without. NonFiniteLogits names the example."""
        look = self._look if maps else self._only_logits
        with torch.no_grad():
            try:
                logits, levels = self._screened(image, look)
            except WrongMap as problem:
                raise problem.of_example(int(index[problem.row])) from None
            require_finite(logits, index, self.label)
            margin = -logit_margin(logits, label)
            close = top2_margin(logits) <= self.tolerance
            if self.fast is not self.original and bool(close.any()):
                logits = logits.clone()
                logits[close] = self.original(image[close])
                margin = -logit_margin(logits, label)
        return Prediction(logits.argmax(1), margin, logits, levels)

    def predict_all(
        self, image: Float[Tensor, "n c h w"], label: Int[Tensor, " n"], index: Int[Tensor, " n"], batch_size: int,
        maps: bool = True,
    ) -> Prediction:  # fmt: skip
        """`predict`, a batch at a time; once without a pass if it was just this that `look_ahead` asked."""
        if maps and self._ahead is not None and self._ahead.answers(image, label, index, batch_size):
            found, self._ahead = self._ahead.prediction, None
            return found
        images, labels, indices = (torch.split(part, batch_size) for part in (image, label, index))
        return Prediction.joined([self.predict(*batch, maps) for batch in zip(images, labels, indices, strict=True)])

    def look_ahead(
        self, image: Float[Tensor, "n c h w"], label: Int[Tensor, " n"], index: Int[Tensor, " n"], batch_size: int
    ) -> Prediction:
        """`predict_all` for who looks first: the same call afterwards is answered by it, unless chance came into it."""
        before = _random_state(self.device)
        found = self.predict_all(image, label, index, batch_size)
        undisturbed = all(map(torch.equal, before, _random_state(self.device)))
        self._ahead = _Ahead(image, label, index, batch_size, found) if undisturbed else None
        return found

    def forget_ahead(self) -> None:
        """Leave every later prediction to a pass of its own."""
        self._ahead = None

    def attend(self, image: Float[Tensor, "n c h w"]) -> tuple[Tensor, Maps]:
        """Logits and the maps of every attended level, each summing to 1 (see `robustatt.evaluate.attention_maps`)."""
        return self._attend(self._in_format(image))

    def _compile(self, probe: Tensor) -> None:
        """Compile the fast copy's passes, for any batch size. InputError if that is not possible here."""
        self._forward = torch.compile(self._forward, dynamic=True)
        if isinstance(self.reader, Own):
            self._attend = self.reader.compiled(self.fast)
        try:
            with torch.no_grad():
                self._look(probe)
        except torch._dynamo.exc.TorchDynamoException as problem:
            said = first_line(problem)
            raise InputError(f"--compile: model {self.label!r} cannot be compiled here ({said}): leave it out") from None

    def _screened(self, image: Tensor, look: Callable[[Tensor], tuple[Tensor, list[Tensor]]]) -> tuple[Tensor, list[Tensor]]:
        """Logits and maps of the fast copy, in bfloat16 where the screen allows it."""
        if self.screen is None:
            return look(self._in_format(image))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits, maps = look(self._in_format(image))
        logits, maps = logits.float(), [level.float() for level in maps]
        unsure = ~(top2_margin(logits) > SAFETY * self.screen)  # NaN is unsure
        if bool(unsure.any()):
            exact, exact_maps = look(self._in_format(image[unsure]))
            logits[unsure] = exact
            for level, again in zip(maps, exact_maps, strict=True):
                level[unsure] = again
        return logits, maps

    def _bfloat16_error(self, probe: Tensor) -> float | None:
        """The largest change of a logit of the probe in bfloat16; None if the model does not run in it."""
        with torch.no_grad():
            expected = self.logits(probe)
            try:
                with torch.autocast(self.device.type, dtype=torch.bfloat16):
                    error = float((self.logits(probe).float() - expected).abs().max())
            except RuntimeError:
                return None
        return error if error == error else None

    def _look(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and maps of one forward pass of the fast copy."""
        if self.attended:
            return self.attend(image)
        if self._layer:
            logits, saliency = logits_and_cam(self.fast, self._layer, image)
            return logits, [saliency]
        return self._only_logits(image)

    def _only_logits(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self._forward(image), []

    def _in_format(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=self.memory_format)


def top2_margin(logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """By how much the predicted class is ahead of the next: the smallest change that could alter the prediction."""
    best = logits.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def _random_state(device: torch.device) -> list[Tensor]:
    """The state of torch's random numbers, also on the device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def require_finite(logits: Float[Tensor, "n classes"], index: Int[Tensor, " n"], label: str) -> None:
    """NonFiniteLogits if any row holds NaN or infinity: such an example is neither robust nor fooled."""
    wrong = ~logits.isfinite().all(1)
    if bool(wrong.any()):
        examples = index[wrong].tolist()
        raise NonFiniteLogits(
            f"model {label!r} returned NaN or infinite logits for example {examples[0]}"
            f"{f' and {len(examples) - 1} more of this batch' if len(examples) > 1 else ''}: "
            "its robustness cannot be measured until that is fixed"
        )


@contextmanager
def frozen(
    module: nn.Module, label: str, device: torch.device, probe: Float[Tensor, "n c h w"],
    numerics: Numerics = Numerics(), attention: str = AUTO, heads: Heads = "mean",
) -> Iterator[Classifier]:  # fmt: skip
    """A Classifier made of a copy of the module; the module itself and the global RNG are as before afterwards.

    `attention` and `heads` say which maps are read (see `robustatt.attention.find`).
    A module that cannot be copied is used itself, and its flags are put back.
    """
    with default_modes(), seeded(device):
        try:
            with torch.no_grad():  # else the parameters of a TorchScript copy have a history
                duplicate = copy.deepcopy(module)
        except Exception:  # any module may refuse to be copied, in any way
            with borrowed(module) as lent:
                yield _classifier(lent, label, device, probe, numerics, attention, heads)
            return
        duplicate = evaluation_mode(duplicate.to(device))
        yield _classifier(duplicate, label, device, probe, numerics, attention, heads)


def _classifier(
    module: nn.Module, label: str, device: torch.device, probe: Tensor, numerics: Numerics, attention: str, heads: Heads
) -> Classifier:
    with raised_by(f"model {label!r}"):
        return Classifier(module, label, device, probe, numerics, attention, heads)
