"""What a model gives away on a few clean images, for about four passes over them: run on every sweep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustatt.attack.losses import logit_margin
from robustatt.evaluate.model_outputs import StandardModule, hookable
from robustatt.health.gradients import gradient
from robustatt.health.labels import label_order
from robustatt.health.look import ModelProbe
from robustatt.health.ranges import input_range
from robustatt.health.warning import HealthWarning

CHANGED = 1e-4
"""Relative change of the logits between two equal passes. Float32 sums in another order differ by about
1e-6; noise small enough to stay below 1e-4 changes no prediction."""

PIECES = (1, 3)
"""Where the few images are split to be asked again: into batches of one, two and the rest."""

MIXED = 1e-2
"""Relative change of the logits between two batches. Kernels differ by batch size: 1e-6 in float32, 1e-3
in TF32 and a few times that in half precision; BatchNorm in training mode changes them by 0.1 and more."""

UNDERFLOW = 103.97
"""exp(-x) is exactly 0 in float32 beyond this margin (in logits), so that plain cross-entropy has no
gradient at all. A probability that only rounds to 1 (margin 17) is usual for healthy networks and does no
harm to the stable loss."""


def check_model(
    module: nn.Module,
    label: str,
    probe: Tensor,
    truth: Tensor | None = None,
    original: nn.Module | None = None,
) -> list[HealthWarning]:
    """What a few clean images tell of a model, for about four passes over them.

    Args:
        module: from images ``(n, channels, height, width)`` in [0, 1] to logits, as it will be evaluated.
        label: what to call it.
        probe: at most 64 images, spread over the data (of all classes if it is sorted by class).
        labels: their classes; without them input-range and label-order are not asked.
        original: the user's module with its own training flags, if `module` is a copy in evaluation mode.
    """
    return examine(ModelProbe.of_module(module, label, probe, truth), original)


def examine(look: ModelProbe, original: nn.Module | None = None) -> list[HealthWarning]:
    """The same of a model that was asked already."""
    broken = _non_finite(look)
    if broken:
        return [broken]
    with _watched(look.module) as active:
        again = _in_pieces(look)
    random = mixed = None
    if again is None or float((again - look.few_logits).abs().max()) > CHANGED * look.scale:
        random = _randomised(look)
        mixed = None if random else _batch_dependent(look, again)
    found: list[HealthWarning | None] = [
        _one_logit(look),
        _output(look),
        _training(look, active),
        _handed_over(look, original),
        random,
        mixed,
        _saturated(look),
        gradient(look, comparable=not (random or mixed)),
    ]
    found += [_clean_accuracy(look)] if look.truth is not None else []
    return [entry for entry in found if entry]


def _in_pieces(look: ModelProbe) -> Tensor | None:
    """The logits of the few images again, in batches of another composition; None where the model does not take them."""
    try:
        return torch.cat([look.query(part) for part in torch.tensor_split(look.few, PIECES) if len(part)])
    except (RuntimeError, ValueError, IndexError):
        return None


def _non_finite(look: ModelProbe) -> HealthWarning | None:
    wrong = int((~look.logits.isfinite().all(1)).sum())
    if not wrong:
        return None
    return HealthWarning(
        "non-finite",
        f"for {wrong} of {len(look.image)} clean images the logits are NaN or infinite: such an image is "
        "neither robust nor fooled.",
        "Look for a division by zero, a logarithm of zero or an overflow in half precision.",
        look.label,
        evidence={"images": wrong, "of": len(look.image)},
    )


def _one_logit(look: ModelProbe) -> HealthWarning | None:
    """One number an image: not a fault, but what was made of it has to be said."""
    if not (isinstance(look.module, StandardModule) and look.module.one_logit):
        return None
    value = look.logits[:, 1]
    if bool(((value >= 0) & (value <= 1)).all()):
        return HealthWarning(
            "probabilities",
            "the model returns one number an image, always in [0, 1]: a probability, and not the logit that it was "
            "taken for, so class 1 is always predicted.",
            "Return the value before the sigmoid.",
            look.label,
            evidence={"smallest": float(value.min()), "largest": float(value.max())},
        )
    return HealthWarning(
        "one-logit",
        "the model returns one number z an image: it is taken as the logits [0, z] of two classes, so class 1 is "
        "predicted where z is above 0.",
        "If it means something else, return two logits.",
        look.label,
        evidence={"smallest": float(value.min()), "largest": float(value.max())},
    )


def _output(look: ModelProbe) -> HealthWarning | None:
    """Probabilities or log-probabilities: rows that sum to 1 to rounding. No logits do so by accident on
    every image."""
    logits = look.logits
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
        return HealthWarning(
            "probabilities",
            "the model returns probabilities, not logits: each row is non-negative and sums to 1. Gradients "
            "vanish where it is sure, so attacks look weaker than they are.",
            "Return the values before the softmax.",
            look.label,
            evidence={"largest_gap_to_1": float((logits.sum(1) - 1).abs().max())},
        )
    if bool((logits <= 0).all()) and bool((logits.logsumexp(1).abs() < 1e-3).all()):
        return HealthWarning(
            "log-probabilities",
            "the model returns log-probabilities, not logits: the exponentials of each row sum to 1.",
            "Labels "
            "and margins are the same, but return the values before the log-softmax to compare losses with "
            "other libraries.",
            look.label,
            evidence={"largest_gap_to_0": float(logits.logsumexp(1).abs().max())},
        )
    return None


@contextmanager
def _watched(module: nn.Module) -> Iterator[set[str]]:
    """The names of submodules that were in training mode at the moment they were called."""
    active: set[str] = set()

    def hook(name: str) -> Callable[[nn.Module, object], None]:
        def note(part: nn.Module, _: object) -> None:
            if part.training:
                active.add(name)

        return note

    handles = [part.register_forward_pre_hook(hook(name)) for name, part in hookable(module) if name]
    try:
        yield active
    finally:
        for handle in handles:
            handle.remove()


def _sensitive(part: nn.Module) -> bool:
    """Whether a kind of layer answers differently in training mode."""
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    return isinstance(part, nn.modules.batchnorm._BatchNorm) or type(part).__name__ in (
        "StochasticDepth",
        "DropPath",
    )


def _duplicate(module: nn.Module) -> nn.Module | None:
    try:
        return copy.deepcopy(module)
    except Exception:  # any module may refuse to be copied, in any way
        return None


def _training(look: ModelProbe, active: set[str]) -> HealthWarning | None:
    """A submodule that was in training mode when it was called and that answers differently there.

    A module that is in training mode altogether was simply handed over so; that counts only if predictions
    differ.
    """
    parts = dict(look.module.named_modules())
    names = sorted(name for name in active if _sensitive(parts[name]))
    if not names:
        return None
    if getattr(look.module, "training", False):
        calm = _duplicate(look.module)
        return None if calm is None else _compare_modes(look, calm.eval())
    return HealthWarning(
        "training-mode",
        f"{len(names)} layers work in training mode although the model is in evaluation mode (the first is "
        f"{names[0]!r}): their answer depends on chance or on the other images of the batch, and so does "
        "every number here.",
        "Look for a train() that ignores its argument, or one that is called in forward().",
        look.label,
        evidence={"layers": len(names)},
    )


def _handed_over(look: ModelProbe, original: nn.Module | None) -> HealthWarning | None:
    """The user's module was in training mode; it is evaluated in evaluation mode. Said only where that
    matters."""
    if original is None or getattr(look.module, "training", False):
        return None
    flags = [getattr(part, "training", False) for part in original.modules()]
    if not any(flag and _sensitive(part) for flag, part in zip(flags, original.modules(), strict=True)):
        return None
    lively = _duplicate(look.module)
    inner = lively.module if isinstance(lively, StandardModule) else lively
    if lively is None or inner is None or len(list(inner.modules())) != len(flags):
        return None
    for part, flag in zip(inner.modules(), flags, strict=True):
        part.training = flag
    return _compare_modes(look, lively)


def _compare_modes(look: ModelProbe, other: nn.Module) -> HealthWarning | None:
    """At least a twentieth of the predictions, and two images, must differ from those of the same module in the other mode."""
    with torch.no_grad():
        try:
            differ = int((other(look.image).argmax(1) != look.logits.argmax(1)).sum())
        except (RuntimeError, ValueError):
            return None
    share = differ / len(look.image)
    if differ < 2 or share < 0.05:
        return None
    return HealthWarning(
        "training-mode",
        f"the model was handed over in training mode, and {share:.0%} of its predictions on "
        f"{len(look.image)} clean images are others there than in evaluation mode.",
        "Everything here is measured in evaluation mode: call model.eval() before comparing with numbers from elsewhere.",
        look.label,
        evidence={"predictions_changed": share},
    )


def _randomised(look: ModelProbe) -> HealthWarning | None:
    passes = torch.stack([look.query(look.few) for _ in range(5)])
    moved = float((passes - passes[0]).abs().max())
    if moved <= CHANGED * look.scale:
        return None
    changed = float((passes.argmax(2) != passes[0].argmax(1)).any(0).float().mean())
    return HealthWarning(
        "randomised",
        f"five passes over the same images differ by up to {moved:.3g} in the logits, and in the prediction "
        f"of {changed:.0%} of the images: the model is random. A single run of an attack then overstates "
        "robustness.",
        "Use autoattack-rand, or a recipe with eot = 20: they average gradients over passes.",
        look.label,
        evidence={"logit_change": moved, "predictions_changed": changed},
    )


def _batch_dependent(look: ModelProbe, again: Tensor | None) -> HealthWarning | None:
    whole = look.few_logits
    if len(whole) < 4:
        return None
    moved, changed = float("inf"), len(whole)
    if again is not None:
        moved, changed = float((again - whole).abs().max()), int((again.argmax(1) != whole.argmax(1)).sum())
    limit = MIXED if _single_precision(look.module) else 5 * MIXED
    if moved <= limit * look.scale:
        return None
    how = f"change by up to {moved:.3g}" if moved < float("inf") else "cannot be had"
    return HealthWarning(
        "batch-dependent",
        f"the logits of an image {how} when it comes in another batch ({changed} of {len(whole)} predictions "
        "change): what is measured depends on the batch size and on the order of the images.",
        "Look for BatchNorm in training mode or for a mean over the batch.",
        look.label,
        evidence={"logit_change": moved, "predictions_changed": changed / len(whole)},
    )


def _single_precision(module: nn.Module) -> bool:
    parameter = next(module.parameters(), None)
    return parameter is None or parameter.dtype in (torch.float32, torch.float64)


def _saturated(look: ModelProbe) -> HealthWarning | None:
    margin = -logit_margin(look.logits, look.logits.argmax(1))
    share = float((margin > UNDERFLOW).float().mean())
    if share <= 0.5:
        return None
    return HealthWarning(
        "saturation",
        f"on {share:.0%} of the clean images the best logit leads by more than {UNDERFLOW:.0f}, so that "
        "every other class has probability 0 in float32 and cross-entropy no gradient: libraries that "
        "attack it report a robustness that is not there.",
        "The attacks here use a loss that does not "
        "saturate; elsewhere divide the logits by a constant, which changes no prediction.",
        look.label,
        evidence={"share": share, "median_margin": float(margin.median())},
    )


def _clean_accuracy(look: ModelProbe) -> HealthWarning | None:
    """The one remedy, of the range of pixels or of the order of classes, that restores more of the accuracy."""
    assert look.truth is not None
    order = label_order(look.truth.cpu().numpy(), look.logits.argmax(1).cpu().numpy(), look.label)
    pixels = input_range(look)
    if order and pixels:
        return max(order, pixels, key=lambda found: max(found.evidence.values()))
    return order or pixels


def check_maps(label: str, levels: Sequence[str]) -> list[HealthWarning]:
    """The warning about a model whose own attention maps do not sum to 1, at these levels."""
    if not levels:
        return []
    return [
        HealthWarning(
            "maps-normalised",
            f"the attention maps of {', '.join(levels)} do not sum to 1 for each image, and were divided by their sum: drift "
            "compares shares of attention, and would grow with the size of the maps.",
            "Return maps that sum to 1 to be sure that this is what they mean.",
            label,
            evidence={"levels": len(levels)},
        )
    ]
