"""Training of the networks: from a request to a checkpoint with its card, also across an interruption.

The train split stays on the device as uint8 and is augmented there. A run that was interrupted goes on where
it was: the same command gives the same bits as an uninterrupted one on the same machine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustatt import data as datasets
from robustatt.data import Dataset, TensorDataset
from robustatt.errors import InputError, TrainingDiverged, TrainingPaused, warn_caller
from robustatt.files import write_whole
from robustatt.models import Card, build, save_checkpoint
from robustatt.models.checkpoint import rounded
from robustatt.models.device import choose_device
from robustatt.train.card import card_of, channel_statistics, start_from
from robustatt.train.curve import curve_png
from robustatt.train.held_out import hold_out, judge_epoch, stopped_early
from robustatt.train.images import adversarial_images, augment, augmentation
from robustatt.train.ranks import Ranks, own_device, ranks, synced
from robustatt.train.request import TrainRequest
from robustatt.train.schedule import learning_rate, optimiser_of, peak_rate
from robustatt.train.state import Run, try_resume, write_log, write_state

SMALL_TEST_SET = 1000


class OnStep(Protocol):
    """Called after each step with the running means of the epoch; accuracy is a share."""

    def __call__(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None: ...


def train(request: TrainRequest, on_step: OnStep | None = None, *, until: float | None = None, curve: bool = True) -> Card:
    """Trains a network and writes ``request.out`` (weights and card) and the CSV log beside it.

    The weights kept are those of the last epoch, or with ``keep`` "best" those of the epoch that does best
    on a tenth of the training images, held out; the test split is only ever measured, never used to choose.
    Adversarial training holds 500 images out to measure robust accuracy after every epoch (see
    `robustatt.train.watch`): it stops at catastrophic overfitting, with the weights of the last epoch before.
    The state goes to ``<out>.resume.pt`` after every epoch and is removed at the end.

    Args:
        request: what to train, on what, how.
        on_step: told of every step.
        until: no epoch but the first begins that by the time of the last would end after this (`time.monotonic`).
        curve: whether the learning curve is drawn too.

    Raises:
        InputError: the model, the data or the out folder is wrong, or the resume file is of another run.
        TrainingDiverged: the loss is no longer finite; the last whole epoch stays in the resume file.
        TrainingPaused: ``until`` has come; the same request continues from the resume file.
    """
    device = choose_device(request.device)
    if request.precision_on(device.type) == "bf16" and emulates_bfloat16(device):
        warn_caller(
            "--precision bf16: this processor has no bfloat16 instructions, passes are several times slower than in float32"
        )
    check_place(request.out)
    if request.distributed:
        device = own_device(device)
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), ranks(request.distributed, device) as mine:
        torch.manual_seed(request.seed)
        return _train(request, device, mine, on_step if mine.first else None, until, curve)


def _train(
    request: TrainRequest, device: torch.device, mine: Ranks, on_step: OnStep | None, until: float | None, curve: bool
) -> Card:
    if not mine.first:
        mine.wait()  # the first process fetches the data, if that is needed
    train_set = load_split(request, "train")
    test_set = load_split(request, "test")
    if mine.first:
        mine.wait()
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
    synced(network, mine)
    origin = start_from(request.init, network)
    optimiser = optimiser_of(request, network)
    run = Run(network, optimiser, _generator(request.seed, 1), _generator(request.seed, 2), train_set.fingerprint)
    try_resume(request, run)
    if not mine.first:
        torch.manual_seed(torch.initial_seed() + 1009 * mine.rank + run.epoch)  # masks of its own for dropout
    called = mine.wrapped(network, device)
    kept, held = hold_out(request, labels)
    images = pixels[kept].permute(0, 2, 3, 1).contiguous().to(device)
    held_out = None if held is None else TensorDataset(pixels[held], labels[held], train_set.classes)
    labels = labels[kept].to(device)
    batches = _epoch_sizes(len(images), request.batch_size)
    resumed_at = run.epoch
    while run.epoch < request.epochs and not stopped_early(run):
        if run.epoch > resumed_at and _out_of_time(run, mine, until):
            raise TrainingPaused(f"time is up after epoch {run.epoch} of {request.epochs}")
        started = time.perf_counter()
        loss, accuracy = _epoch(request, run, called, mine, images, labels, batches, on_step)
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
        run.rows.append(row)
        if held_out is not None:
            judge_epoch(request, run, held_out, mine, device)
        if mine.first:
            write_log(request.log_path, run.rows)
            write_state(request.resume_path, run.state(request.identity()))
    if run.best is not None:
        network.load_state_dict(run.best)
    if request.half:
        network.load_state_dict(rounded(network.state_dict()))
    last, test_accuracy = run.rows[-1], run.rows[-1]["test_accuracy"]
    if request.half or math.isnan(test_accuracy) or run.kept_epoch != run.epoch:
        test_accuracy = clean_accuracy(network, test_set, device=device)
    if run.kept_epoch == run.epoch:
        last["test_accuracy"] = test_accuracy  # as stored
    card = card_of(request, run, train_set, mean, std, origin, test_accuracy)
    if not mine.first:
        return card
    write_log(request.log_path, run.rows)
    if curve:
        write_whole(request.curve_path, curve_png(run.rows, f"{card.name}, width {card.width:g}, {card.data}"))
    save_checkpoint(request.out, network.state_dict(), card, half=request.half)
    request.resume_path.unlink(missing_ok=True)
    return card


def check_place(out: Path) -> None:
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


def load_split(request: TrainRequest, split: str) -> Dataset:
    """The training or the test images of a request."""
    return datasets.load(
        request.data,
        split,
        root=request.data_root,
        download=request.download,
        label_column=request.label_column,
        image_size=request.input_size,
    )


def _out_of_time(run: Run, mine: Ranks, until: float | None) -> bool:
    """Whether another epoch like the last would end too late; the first process decides for all."""
    if until is None:
        return False
    late = mine.first and time.monotonic() + run.rows[-1]["seconds"] > until
    return bool(mine.sums(torch.tensor(float(late), device=next(run.network.parameters()).device))[0])


def _generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1009 + stream)


def _epoch_sizes(count: int, batch: int) -> int:
    """Steps an epoch; a last batch of one image is dropped, as BatchNorm cannot be trained on it."""
    return count // batch + (count % batch > 1)


def _epoch(
    request: TrainRequest,
    run: Run,
    called: nn.Module,
    mine: Ranks,
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
        batch, x, y = len(y), mine.share(x), mine.share(y)
        loss, logits = _step(request, run, called, mine, x, y, batch)
        total, hits = mine.sums(loss, (logits.argmax(dim=1) == y).sum())
        value = total / mine.world
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss is {value} in epoch {run.epoch + 1}, step {step + 1} of {steps}: "
                f"try a lower --lr than {peak_rate(request):g} (nothing was written to {request.out})"
            )
        total_loss += value * batch
        right += int(hits)
        seen += batch
        if on_step is not None:
            on_step(epoch=run.epoch + 1, step=step + 1, steps=steps, loss=total_loss / seen, accuracy=right / seen)
    return total_loss / seen, right / seen


@contextmanager
def _precision(bf16: bool, device: torch.device) -> Iterator[None]:
    """Passes in bfloat16 or in float32."""
    with ExitStack() as stack:
        if bf16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
            if device.type == "cpu":  # the backward pass of the fused kernel takes twice the time of plain products there
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _step(
    request: TrainRequest, run: Run, called: nn.Module, mine: Ranks, x: Tensor, y: Tensor, batch: int
) -> tuple[Tensor, Tensor]:
    """One step on this process's rows of a batch; the loss is its part of the mean loss of all."""
    with _precision(request.precision_on(x.device.type) == "bf16", x.device):
        if request.adversarial is not None:
            x = adversarial_images(run.network, x, y, request.adversarial, request.train_eps / 255, run.noise, mine, batch)
        logits = called(x)
        loss = mine.mean_loss(logits.float(), y, batch, request.label_smoothing)
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimiser.step()
    return loss.detach(), logits.detach()


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 by way of float32: a CPU without instructions for it."""
    mkldnn = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return mkldnn and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


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
