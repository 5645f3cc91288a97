"""Networks of other projects' zoos, which come with their weights: RobustBench's models, and image classifiers of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from robustatt.errors import InputError, typed_line
from robustatt.models.attention import Options
from robustatt.models.wrappers import LogitsOf

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

ROBUSTBENCH_DEFAULTS = {"dataset": "cifar10", "threat_model": "Linf"}
"""What RobustBench's loader takes unless options say otherwise, in its words."""


def from_robustbench(name: str, options: Options) -> nn.Module:
    """A model of RobustBench's zoo by its loader, which downloads it and normalises inside. Options are the loader's.

    InputError if the package is missing, or it has no such model for the data set and threat model.
    """
    try:
        from robustbench.utils import load_model
    except ImportError:
        raise InputError("robustbench is not installed: pip install 'robustatt[robustbench]'") from None
    chosen = {**ROBUSTBENCH_DEFAULTS, **options}
    try:
        network: nn.Module = load_model(model_name=name, **chosen)
    except KeyError:
        raise InputError(
            f"robustbench has no model {name!r} of dataset {chosen['dataset']} and threat model {chosen['threat_model']}: "
            "--model-option dataset=cifar100 and threat_model=L2, say, choose others"
        ) from None
    return network


def from_transformers(name: str, options: Options) -> nn.Module:
    """An image classifier of transformers from a folder that `save_pretrained` wrote, or by its name on the hub.

    Options are those of `from_pretrained`. Code that comes with a model is never run.
    """
    transformers = _transformers()
    if "trust_remote_code" in options:
        raise InputError(f"hf:{name}: trust_remote_code is refused: code that comes with a model is never run")
    return LogitsOf(transformers.AutoModelForImageClassification.from_pretrained(name, **options))


def transformers_statistics(name: str) -> Statistics | None:
    """Mean and deviation by which the processor of an image classifier turns images in [0, 1] into what the network takes.

    Its rescaling of 0 to 255 is folded in. None where nothing is to be done, or no processor was saved.

    Raises:
        InputError: transformers is missing, or the statistics are not those of three channels.
    """
    transformers = _transformers()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):  # a folder without a processor
        return None
    except Exception as problem:
        raise InputError(f"hf:{name}: its image processor cannot be read ({typed_line(problem)}): say --normalize") from None
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    mean, std = _three(name, processor.image_mean, 0.0), _three(name, processor.image_std, 1.0)
    if not processor.do_normalize:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    (r, g, b), (sr, sg, sb) = ((value + offset) / factor for value in mean), (value / factor for value in std)
    found = (r, g, b), (sr, sg, sb)
    return None if found == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) else found


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("transformers is not installed: pip install 'robustatt[hf]'") from None
    return transformers


def _three(name: str, values: Any, usual: float) -> tuple[float, float, float]:
    if values is None:
        return (usual, usual, usual)
    try:
        r, g, b = map(float, values)
    except (TypeError, ValueError):
        raise InputError(f"hf:{name}: its processor does not normalise three channels: say --normalize") from None
    return r, g, b
