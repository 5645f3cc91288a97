"""Training of the networks: from a request to a checkpoint with its card, also across an interruption.

The train split stays on the device as uint8 and is augmented there. A run that was interrupted goes on where
it was: the same command gives the same bits as an uninterrupted one on the same machine.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustatt import data as datasets
from robustatt.data import Dataset, TensorDataset
from robustatt.data.sample import stratified
from robustatt.device import choose_device
from robustatt.errors import InputError, TrainingDiverged
from robustatt.models import Card, Network, build, canonical, load_checkpoint, save_checkpoint
from robustatt.models.checkpoint import rounded
from robustatt.plan import write_whole
from robustatt.report.learning import curve_png

SMALL_TEST_SET = 1000
Channels = tuple[float, float, float]


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
    test_every: int | None = Field(default=None, ge=1)
    init: Path | None = None
    keep: Literal["last", "best"] = "last"

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "request"
            raise InputError(f"{where} {first['input']!r}: {first['msg']}") from None

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
        return json.dumps(
            self.model_dump(
                mode="json",
                exclude={"out", "data_root", "download", "device", "half", "resume", "test_every"},
            ),
            sort_keys=True,
        )


class OnStep(Protocol):
    """Called after each step with the running means of the epoch; accuracy is a share."""

    def __call__(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None: ...


@dataclass
class _Run:
    """The moving parts of a training run: what a resume file has to hold."""

    network: Network
    optimiser: torch.optim.SGD
    order: torch.Generator
    noise: torch.Generator
    epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0

    def state(self, identity: str) -> dict[str, Any]:
        rng = {
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "torch": torch.get_rng_state(),
        }
        if next(self.network.parameters()).is_cuda:
            rng["cuda"] = torch.cuda.get_rng_state()
        return {
            "identity": identity,
            "epoch": self.epoch,
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": rng,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.rows = state["epoch"], state["rows"]
        self.best, self.best_epoch = state.get("best"), state.get("best_epoch", 0)
        self.order.set_state(state["rng"]["order"])
        self.noise.set_state(state["rng"]["noise"])
        torch.set_rng_state(state["rng"]["torch"])
        if "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"])


def train(request: TrainRequest, on_step: OnStep | None = None) -> Card:
    """Trains a network and writes ``request.out`` (weights and card) and the CSV log beside it.

    The weights kept are those of the last epoch, or with ``keep`` "best" those of the epoch that does best
    on a tenth of the training images, held out; the test split is only ever measured, never used to choose.
    The state goes to ``<out>.resume.pt`` after every epoch and is removed at the end.

    Args:
        request: what to train, on what, how.
        on_step: told of every step.

    Raises:
        InputError: the model, the data or the out folder is wrong, or the resume file is of another run.
        TrainingDiverged: the loss is no longer finite; the last whole epoch stays in the resume file.
    """
    device = choose_device(request.device)
    _check_place(request.out)
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(request.seed)
        return _train(request, device, on_step)


def _train(request: TrainRequest, device: torch.device, on_step: OnStep | None) -> Card:
    train_set = _load(request, "train")
    test_set = _load(request, "test")
    pixels, labels = train_set.tensors(range(len(train_set)))
    if len(pixels) < 2:
        raise InputError(f"data {request.data!r}: its train split holds {len(pixels)} images, 2 are needed")
    mean, std = channel_statistics(pixels)
    network = build(
        request.model,
        len(train_set.classes),
        request.width,
        dropout=request.dropout,
        mean=mean,
        std=std,
        input_size=min(train_set.image_shape[1:]),
    )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    origin = _start_from(request.init, network)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=request.schedule == "onecycle" or request.model.startswith("resnet"),
    )
    run = _Run(network, optimiser, _generator(request.seed, 1), _generator(request.seed, 2))
    _try_resume(request, run)
    kept, held = _hold_out(request, labels)
    images = pixels[kept].permute(0, 2, 3, 1).contiguous().to(device)
    held_out = None if held is None else TensorDataset(pixels[held], labels[held], train_set.classes)
    labels = labels[kept].to(device)
    batches = _epoch_sizes(len(images), request.batch_size)
    while run.epoch < request.epochs:
        started = time.perf_counter()
        loss, accuracy = _epoch(request, run, images, labels, batches, on_step)
        run.epoch += 1
        seconds = time.perf_counter() - started
        test_accuracy = math.nan
        if _test_now(request, run.epoch, len(test_set)):
            test_accuracy = clean_accuracy(network, test_set, device=device)
        row = {
            "epoch": run.epoch,
            "lr": optimiser.param_groups[0]["lr"],
            "train_loss": loss,
            "train_accuracy": accuracy,
            "test_accuracy": test_accuracy,
            "seconds": round(seconds, 2),
            "images_per_second": round(len(images) / seconds, 1),
        }
        if held_out is not None:
            row["held_out_accuracy"] = clean_accuracy(network, held_out, device=device)
            _keep_if_best(run, row["held_out_accuracy"])
        run.rows.append(row)
        _write_log(request.log_path, run.rows)
        _write_state(request.resume_path, run.state(request.identity()))
    if run.best is not None:
        network.load_state_dict(run.best)
    if request.half:
        network.load_state_dict(rounded(network.state_dict()))
    if request.half or run.best_epoch not in (0, run.epoch):
        run.rows[-1]["test_accuracy"] = clean_accuracy(network, test_set, device=device)
        _write_log(request.log_path, run.rows)
    card = _card(request, run, train_set, mean, std, origin)
    write_whole(request.curve_path, curve_png(run.rows, f"{card.name}, width {card.width:g}, {card.data}"))
    save_checkpoint(request.out, network.state_dict(), card, half=request.half)
    request.resume_path.unlink(missing_ok=True)
    return card


def _hold_out(request: TrainRequest, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which training images are trained on, and which are held out to choose the best epoch."""
    every = torch.arange(len(labels))
    if request.keep == "last":
        return every, None
    if len(labels) < 20:
        raise InputError(f"--keep best: {len(labels)} training images are too few to hold a tenth out")
    held = stratified(labels, len(labels) // 10, request.seed)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return every[kept], held


def _keep_if_best(run: _Run, accuracy: float) -> None:
    if run.best is None or accuracy > max(row["held_out_accuracy"] for row in run.rows):
        run.best = {name: tensor.detach().clone() for name, tensor in run.network.state_dict().items()}
        run.best_epoch = run.epoch


def _start_from(path: Path | None, network: Network) -> dict[str, Any] | None:
    """Copies a checkpoint's weights but for the normalisation and, for other classes, the head.

    Returns what the card should say of it.

    Raises:
        InputError: the checkpoint is of another network or width.
    """
    if path is None:
        return None
    source, card = load_checkpoint(path)
    mine = network.architecture
    for what, theirs, own in (("network", card.name, mine.name), ("width", card.width, mine.width)):
        if theirs != own:
            raise InputError(f"--init {path}: its {what} is {theirs}, not {own}: give one of the same {what}")
    state = network.state_dict()
    for name, tensor in source.state_dict().items():
        fits = name in state and state[name].shape == tensor.shape
        if not fits and card.classes == mine.classes:
            raise InputError(f"--init {path}: tensor {name} does not fit this network: their options differ")
        if fits and not name.startswith("normalise."):
            state[name] = tensor
    network.load_state_dict(state)
    head = "kept" if card.classes == mine.classes else "new"
    return {"name": card.name, "data": card.data, "epochs": card.epochs, "head": head}


def _check_place(out: Path) -> None:
    """Finds out before the training, and not after it, that its result cannot be written."""
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: the name of a checkpoint ends in .safetensors")
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"cannot write {out}: no permission in {out.parent}")


def _load(request: TrainRequest, split: str) -> Dataset:
    return datasets.load(
        request.data,
        split,
        root=request.data_root,
        download=request.download,
        label_column=request.label_column,
        image_size=request.input_size,
    )


def channel_statistics(pixels: Tensor) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels of images ``(n, 3, h, w)``, both in [0, 1] scale."""
    scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
    count = pixels.numel() / pixels.shape[1]
    total = torch.zeros(pixels.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in torch.split(pixels, 1000):
        chunk = part.double() / scale
        total += chunk.sum(dim=(0, 2, 3))
        squares += chunk.square().sum(dim=(0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: Tensor) -> Channels:
    red, green, blue = (round(value, 4) for value in values.tolist())
    return red, green, blue


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1009 + stream)


def _epoch_sizes(count: int, batch: int) -> int:
    """Steps an epoch; a last batch of one image is dropped, as BatchNorm cannot be trained on it."""
    return count // batch + (count % batch > 1)


def _epoch(
    request: TrainRequest,
    run: _Run,
    images: Tensor,
    labels: Tensor,
    steps: int,
    on_step: OnStep | None,
) -> tuple[float, float]:
    """One pass over the images ``(n, h, w, 3)``; the mean loss and the share classified right on the way."""
    flip, crop = augmentation(request)
    run.network.train()
    order = torch.randperm(len(images), generator=run.order)
    total_loss, right, seen = 0.0, 0, 0
    for step in range(steps):
        chosen = order[step * request.batch_size : (step + 1) * request.batch_size]
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate(request, run.epoch + step / steps)
        x = augment(images, chosen, run.noise, flip=flip, crop=crop)
        y = labels[chosen.to(labels.device)]
        loss, logits = _step(request, run, x, y)
        value = float(loss)
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is {value} in epoch {run.epoch + 1}, step {step + 1} of {steps}: "
                f"try a lower --lr than {_peak(request):g} (nothing was written to {request.out})"
            )
        total_loss += value * len(y)
        right += int((logits.argmax(dim=1) == y).sum())
        seen += len(y)
        if on_step is not None:
            on_step(epoch=run.epoch + 1, step=step + 1, steps=steps, loss=total_loss / seen, accuracy=right / seen)
    return total_loss / seen, right / seen


def _step(request: TrainRequest, run: _Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    autocast = torch.autocast("cuda", dtype=torch.bfloat16) if x.is_cuda else nullcontext()
    with autocast:
        if request.adversarial is not None:
            x = adversarial_images(run.network, x, y, request.adversarial, request.train_eps / 255, run.noise)
        logits = run.network(x)
        loss = cross_entropy(logits.float(), y, label_smoothing=request.label_smoothing)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimiser.step()
    return loss.detach(), logits.detach()


def augmentation(request: TrainRequest) -> tuple[bool, bool]:
    """Whether to flip and to crop: both by default, but written digits are not flipped."""
    written = request.data in {"digits", "svhn"}
    flip = not written if request.flip is None else request.flip
    return flip, True if request.crop is None else request.crop


def augment(images: Tensor, chosen: Tensor, noise: torch.Generator, *, flip: bool, crop: bool, pad: int = 4) -> Tensor:
    """The chosen images of ``(n, h, w, 3)`` as float ``(batch, 3, h, w)`` in [0, 1], in channels-last memory.

    A crop of a copy padded by reflection is a shift by at most ``pad`` pixels, so one gather does it all.
    The random numbers are drawn on the CPU and so do not depend on the device.
    """
    batch, (height, width) = len(chosen), images.shape[1:3]
    rows, columns = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    if crop:
        shift = torch.randint(-pad, pad + 1, (2, batch, 1), generator=noise)
        rows, columns = _reflect(rows + shift[0], height), _reflect(columns + shift[1], width)
    if flip:
        turned = torch.rand(batch, 1, generator=noise) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    device = images.device
    index = (chosen.view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    taken = images[tuple(part.to(device) for part in index)].permute(0, 3, 1, 2)
    return taken.float() / 255 if taken.dtype == torch.uint8 else taken.float()


def _reflect(positions: Tensor, size: int) -> Tensor:
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


def adversarial_images(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    method: Literal["fgsm", "pgd"],
    eps: float,
    noise: torch.Generator,
) -> Tensor:
    """Training images inside the L-infinity ball of radius ``eps`` (pixel scale [0, 1]) and inside [0, 1].

    ``fgsm`` is one step of 1.25 eps from a random start (Wong et al. 2020); ``pgd`` is 7 steps of eps/4 from
    a random start (Madry et al. 2018). The network stays in training mode, as in both papers.
    """
    steps, size = (1, 1.25 * eps) if method == "fgsm" else (7, eps / 4)
    start = torch.empty(x.shape, memory_format=torch.channels_last).uniform_(-eps, eps, generator=noise)
    moved = (x + start.to(x.device)).clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        loss = cross_entropy(network(moved).float(), y)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + size * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    return moved


def learning_rate(request: TrainRequest, position: float) -> float:
    """The learning rate at ``position`` epochs from the start (a fraction inside an epoch)."""
    peak = _peak(request)
    if request.schedule == "paper":
        return peak * _paper_factor(request, int(position))
    share, rise = position / request.epochs, 0.2
    if share < rise:
        return peak * (0.04 + 0.96 * share / rise)
    return peak * max(0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise))), 1e-4)


def _peak(request: TrainRequest) -> float:
    if request.lr is not None:
        return request.lr
    on_cifar = request.data.startswith("cifar") and request.model.startswith("vgg")
    return 1.0 if request.schedule == "paper" and on_cifar else 0.1


def _paper_factor(request: TrainRequest, epoch: int) -> float:
    """The released schedules: halved every 25 epochs (30 on CUB); the ResNet's x0.2 at 60, 120, 160."""
    if request.model.startswith("resnet"):
        return float(0.2 ** sum(epoch >= drop for drop in (60, 120, 160)))
    return float(0.5 ** (epoch // (30 if "cub" in request.data.lower() else 25)))


def _test_now(request: TrainRequest, epoch: int, size: int) -> bool:
    every = request.test_every or (1 if size <= SMALL_TEST_SET else request.epochs)
    return epoch % every == 0 or epoch == request.epochs


def clean_accuracy(network: nn.Module, dataset: Dataset, *, device: torch.device, batch_size: int = 256) -> float:
    """The share of a data set that the network classifies right, in eval mode; the mode is put back."""
    was_training = network.training
    network.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in dataset.batches(batch_size):
            x = images.to(device).contiguous(memory_format=torch.channels_last)
            x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
            right += int((network(x).argmax(dim=1).cpu() == labels).sum())
    network.train(was_training)
    return right / len(dataset)


def _card(
    request: TrainRequest,
    run: _Run,
    dataset: Dataset,
    mean: Channels,
    std: Channels,
    origin: dict[str, Any] | None,
) -> Card:
    flip, crop = augmentation(request)
    adversarial = None
    if request.adversarial is not None:
        adversarial = {"method": request.adversarial, "norm": "linf", "eps": f"{request.train_eps:g}/255"}
    architecture = run.network.architecture
    return Card(
        name=architecture.name,
        options=dict(architecture.options),
        width=architecture.width,
        classes=architecture.classes,
        class_names=dataset.classes,
        input_size=architecture.input_size,
        mean=mean,
        std=std,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        clean_accuracy=run.rows[-1]["test_accuracy"],
        seed=request.seed,
        epochs=request.epochs,
        adversarial=adversarial,
        history={
            "schedule": request.schedule,
            "lr": _peak(request),
            "batch_size": request.batch_size,
            "label_smoothing": request.label_smoothing,
            "flip": flip,
            "crop": crop,
            "stored_as": "float16" if request.half else "float32",
            "selection": f"epoch {run.best_epoch}, best held-out accuracy" if run.best else "last epoch",
            **({"init": origin} if origin else {}),
            "train_loss": round(run.rows[-1]["train_loss"], 4),
            "train_accuracy": round(run.rows[-1]["train_accuracy"], 4),
            "seconds": round(sum(row["seconds"] for row in run.rows), 1),
            "torch": torch.__version__,
        },
    )


def _write_log(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if math.isnan(value) else f"{value:.6g}" for key, value in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode())


def _write_state(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getvalue())


def _try_resume(request: TrainRequest, run: _Run) -> None:
    """Goes on from the resume file, if there is one and it is asked for.

    Raises:
        InputError: the file is damaged or belongs to a run with other settings.
    """
    path = request.resume_path
    if not request.resume or not path.exists():
        return
    way_out = "delete it or train with --no-resume"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = state["identity"] == request.identity()
    except Exception as error:
        raise InputError(f"{path} cannot be read: {way_out}") from error
    if not same:
        raise InputError(f"{path} is of a run with other settings: {way_out}")
    run.restore(state)
