"""External networks: a Python callable, torchvision, timm or a zoo of models, with weights from a file or a folder.

Weights are read as data; a pickle that wants to run code is refused.
"""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
import pickle
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustatt.errors import InputError, typed_line
from robustatt.models.attention import Options
from robustatt.models.checkpoint import fill, read_safetensors
from robustatt.models.weight_matching import flattened, matching, outputs_in
from robustatt.models.wrappers import Normalised
from robustatt.models.zoos import ROBUSTBENCH_DEFAULTS, from_robustbench, from_transformers, transformers_statistics

KNOWN_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
}


LIBRARIES = ("timm", "torchvision")
"""Sources whose networks are built with as many outputs as wanted, and whose normalisation is known."""

ZOOS = {"robustbench": "RobustBench", "hf": "Hugging Face"}
"""Sources whose networks come with their weights."""


@dataclass(frozen=True)
class ModelReference:
    """A network named by where it comes from: ``torchvision:resnet18`` is source ``torchvision``."""

    source: str
    name: str


def is_outside(spec: str) -> bool:
    """Whether a model name points outside the project, which is what a colon says."""
    return ":" in spec


def load_outside(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: int = 10,
    normalize: str | None = None,
    options: Options | None = None,
) -> nn.Module:
    """An external network, in eval mode, from images in [0, 1] to logits.

    Args:
        spec: ``pkg.module:build``, ``torchvision:NAME``, ``timm:NAME``, ``robustbench:NAME`` or ``hf:NAME_OR_FOLDER``. The
            callable or loader takes ``options``.
        weights: a safetensors, .pt, .pth or .bin file, or a folder that holds one as on the Hugging Face
            hub; without it the weights are those of the zoo, or random and the same at each call.
        classes: outputs of a torchvision or timm network; weights of another number of classes are taken with theirs.
        normalize: see ``statistics``; None is what the network's library says of it (see ``own_statistics``), and leaves
            the images of a callable as they are.
        options: keyword arguments of the callable that builds the network.

    Raises:
        InputError: the network cannot be built, or the weights cannot be read or do not fit.
    """
    source, _, name = spec.partition(":")

    def build(outputs: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(ModelReference(source, name), outputs, dict(options or {}))

    network = build(classes)
    if weights is not None:
        tensors = read_weights(weights)
        if source in LIBRARIES and (outputs := outputs_in(tensors, network, build(classes + 1))) not in (None, classes):
            network = build(outputs)
        fill(network, matching(tensors, network, str(weights)), str(weights))
    numbers = statistics(normalize) if normalize is not None else own_statistics(spec)
    if numbers is not None:
        network = Normalised(network, *numbers)
    with suppress(NotImplementedError):  # an exported program stays in the mode that it was exported in
        network.eval()
    return network


def own_statistics(spec: str) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """Mean and deviation that a network of a library expects, whatever its weights: those of its library.

    timm says them for each network, transformers in the network's image processor; torchvision's classifiers all take
    ImageNet's. None for a callable, for RobustBench (its networks normalise inside), and where timm says nothing about three
    channels.
    """
    source, _, name = spec.partition(":")
    if source == "hf":
        return transformers_statistics(name)
    if source == "torchvision":
        return KNOWN_STATISTICS["imagenet"]
    if source != "timm":
        return None
    import timm

    found = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if found is None or len(found.mean) != 3 or len(found.std) != 3:
        return None
    (r, g, b), (sr, sg, sb) = found.mean, found.std
    return (float(r), float(g), float(b)), (float(sr), float(sg), float(sb))


def facts(spec: str, weights: str | Path | None, normalize: str | None) -> str:
    """What is done to a network of a library or zoo without being asked, in a line; empty for others."""
    source = spec.partition(":")[0]
    if source == "robustbench":
        data, threat = ROBUSTBENCH_DEFAULTS.values()
        return f"{spec}: the model of dataset {data} and threat model {threat}, unless --model-option dataset=... or threat_model=... says otherwise"
    if source not in (*LIBRARIES, "hf"):
        return ""
    said = []
    if normalize is None and (numbers := own_statistics(spec)) is not None:
        mean, std = (", ".join(f"{value:g}" for value in part) for part in numbers)
        said.append(f"normalised by its own mean {mean} and deviation {std} (--normalize none switches that off)")
    elif normalize is None and source == "hf":
        said.append(
            "no normalisation is known (no image processor was saved with it), so it sees images in [0, 1] (--normalize gives one)"
        )
    if weights is None and source in LIBRARIES:
        said.append("random weights, so its accuracy is that of chance (--weights FILE loads some)")
    return f"{spec}: {'; '.join(said)}" if said else ""


def statistics(
    text: str | None,
) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    """``imagenet``, ``cifar10``, ``none`` or ``m1,m2,m3/s1,s2,s3`` to mean and standard deviation in [0, 1].

    Raises:
        InputError: none of these, or a standard deviation that is not above 0.
    """
    if text is None or text == "none":
        return None
    if text in KNOWN_STATISTICS:
        return KNOWN_STATISTICS[text]
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in text.split("/"))
        (r, g, b), (sr, sg, sb) = mean, std
    except ValueError:
        raise InputError(f"normalisation {text!r}: imagenet, cifar10, none, or m1,m2,m3/s1,s2,s3 is needed") from None
    if not all(math.isfinite(number) for number in (*mean, *std)) or min(std) <= 0:
        raise InputError(f"normalisation {text!r}: numbers must be finite and deviations above 0")
    return (r, g, b), (sr, sg, sb)


def _build(reference: ModelReference, classes: int, options: Options) -> nn.Module:
    if reference.source == "torchvision":
        return _from_torchvision(reference.name, classes, options)
    if reference.source == "timm":
        return _from_timm(reference.name, classes, options)
    if reference.source in ZOOS:
        build = from_robustbench if reference.source == "robustbench" else from_transformers
        with _blamed(f"{reference.source}:{reference.name}"):
            return build(reference.name, options)
    return _from_callable(reference, options)


def _from_torchvision(name: str, classes: int, options: Options) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name!r}: {_nearest(name, known)}")
    if name in {"googlenet", "inception_v3"}:
        options = {"init_weights": True, **options}
    with _blamed(f"torchvision:{name}"):
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return network


def _from_timm(name: str, classes: int, options: Options) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError("timm is not installed: pip install 'robustatt[timm]'") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise InputError(f"timm has no model {name!r}: {_nearest(name, known)}")
    with _blamed(f"timm:{name}"):
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    return network


def _from_callable(reference: ModelReference, options: Options) -> nn.Module:
    spec = f"{reference.source}:{reference.name}"
    with _current_folder_importable():
        try:
            module = importlib.import_module(reference.source)
        except ModuleNotFoundError as error:
            raise InputError(f"model {spec!r}: no Python module {error.name!r} can be imported here") from error
        except Exception as error:
            raise InputError(f"model {spec!r}: importing it raised {typed_line(error)}") from error
        made = getattr(module, reference.name, None)
        if made is None:
            public = [name for name in vars(module) if not name.startswith("_")]
            raise InputError(f"model {spec!r}: the module has no such name. {_nearest(reference.name, public)}")
        if not isinstance(made, nn.Module):
            if not callable(made):
                raise InputError(f"model {spec!r} is a {type(made).__name__}, not a callable")
            torch.manual_seed(0)
            with _blamed(spec):
                made = made(**options)
    if not isinstance(made, nn.Module):
        raise InputError(f"model {spec!r} returned a {type(made).__name__}: an nn.Module is needed")
    return made


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


@contextmanager
def _blamed(spec: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model {spec!r}: building it raised {typed_line(error)}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else "no name is near it"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors from a weights file or from a folder as on the Hugging Face hub. Nothing in it is run.

    Raises:
        InputError: missing, damaged, without tensors, or a pickle that needs code to be run.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    return _read_pickle(path)


def _read_folder(path: Path) -> dict[str, Tensor]:
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = path / f"{stem}.{suffix}", path / f"{stem}.{suffix}.index.json"
        if single.is_file():
            return read_weights(single)
        if index.is_file():
            return _read_shards(index)
    raise InputError(f"{path} holds neither model.safetensors nor pytorch_model.bin")


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{index} is not an index of weight files: {typed_line(error)}") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
            raise InputError(f"{index} names {name!r}, which is not a file in its folder")
        if (index.parent / name).is_dir():
            raise InputError(f"{index} names {name!r}, which is a folder and not a file of weights")
        tensors |= read_weights(index.parent / name)
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"{path} refused: reading it would run code from the file; "
                f"save its state_dict() with torch.save, or as safetensors"
            ) from error
        raise InputError(f"{path} is not a complete PyTorch file: {typed_line(error)}") from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} is a TorchScript program, not a file of weights: give it as the model, by a callable of yours that "
                "returns torch.jit.load(...)"
            ) from error
        raise InputError(f"{path} is not a complete PyTorch file (truncated?): {typed_line(error)}") from error
    return _tensors_in(content, path)


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Every named tensor, under its path in the tables that training scripts leave."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}: named tensors (a state_dict) are needed")
    tensors = dict(flattened(content))
    if not tensors:
        raise InputError(f"{path} holds no named tensors")
    return tensors
