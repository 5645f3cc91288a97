"""Training by two processes gives what one process gives with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustatt import cli
from robustatt.models import build
from robustatt.train import adversarial_images
from robustatt.train.ranks import ALONE, Ranks, SyncedBatchNorm, synced


def test_shares_make_up_the_batch() -> None:
    rows = torch.arange(7)
    shares = [Ranks(rank, 3).share(rows) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))


def test_the_mean_of_the_losses_is_the_loss_of_the_batch() -> None:
    """Also where the shares have different sizes, and with label smoothing."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 4, generator=generator), torch.randint(4, (7,), generator=generator)
    whole = ALONE.mean_loss(logits, labels, 7, 0.1)
    each = [rank.mean_loss(rank.share(logits), rank.share(labels), 7, 0.1) for rank in (Ranks(0, 3), Ranks(1, 3), Ranks(2, 3))]
    torch.testing.assert_close(torch.stack(each).mean(), whole)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_synced_normalisation_alone_is_batch_norm(dimensions: int, tmp_path: Path) -> None:
    """With one process, its outputs, gradients and running statistics are those of torch's own."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1)
    try:
        generator = torch.Generator().manual_seed(1)
        image = torch.randn(6, 3, 5, 5, generator=generator) if dimensions == 2 else torch.randn(6, 3, generator=generator)
        kind = nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d
        plain, other = nn.Sequential(kind(3)), nn.Sequential(kind(3))
        synced(other, Ranks(0, 2))
        assert isinstance(other[0], SyncedBatchNorm)
        found = []
        for network in (plain, other):
            x = image.clone().requires_grad_()
            y = network(x)
            y.pow(3).sum().backward()
            found.append([y, x.grad, network[0].weight.grad, network[0].running_mean, network[0].running_var])
            found[-1].append(network.eval()(image))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


def test_without_torchrun_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RANK", raising=False)
    command = ["train", "--model", "vgg", "--out", str(tmp_path / "w.safetensors"), "--distributed", "--device", "cpu"]
    assert cli.main(command) == 2
    assert "torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _three_steps(ranks: Ranks, adversarial: bool) -> dict[str, torch.Tensor]:
    """Weights and running statistics after steps on 33 images, which two processes share unevenly, in float64."""
    torch.manual_seed(0)
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "input_size": 32}
    network = build("vgg_att1", 10, 0.03125, dropout=0.0, **settings).double()
    synced(network, ranks)
    network.train()
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(33, 3, 32, 32, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (33,), generator=generator)
    called = ranks.wrapped(network, torch.device("cpu"))
    x, y = ranks.share(x), ranks.share(y)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for step in range(3):
        if adversarial:
            x = adversarial_images(network, x, y, "fgsm", 8 / 255, torch.Generator().manual_seed(step), ranks, 33)
        optimiser.zero_grad()
        ranks.mean_loss(called(x), y, 33).backward()
        optimiser.step()
    return {name: tensor.detach() for name, tensor in (*network.named_parameters(), *network.named_buffers())}


def _compare(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for adversarial in (False, True):
        together = _three_steps(Ranks(rank, 2), adversarial)
        for name, expected in _three_steps(ALONE, adversarial).items():
            torch.testing.assert_close(together[name], expected, rtol=1e-6, atol=1e-9, msg=lambda s, name=name: f"{name}: {s}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_steps_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """Every weight and running statistic, also of adversarial training, to float64's precision."""
    torch.multiprocessing.spawn(_compare, (str(tmp_path / "store"),), nprocs=2)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--adversarial", "fgsm"]], ids=["plain", "adversarial"])
def test_two_processes_are_one(tmp_path: Path, flags: list[str]) -> None:
    """Three steps on digits from the command line; in float32 an untrained network amplifies rounding to some 1e-3."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = ["--width", "0.0625", "--epochs", "1", "--batch-size", "433", "--dropout", "0", "--lr", "0.02"]
    for name, how in (("one", []), ("two", ["--distributed"])):
        program = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if how else []
        command = [sys.executable, *program, "-m", "robustatt", "train", "--model", "vgg_att1", "--device", "cpu"]
        done = subprocess.run(
            [*command, *settings, *flags, *how, "--out", str(tmp_path / f"{name}.safetensors")],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Wrote") == 1
    one, two = (pd.read_csv(tmp_path / f"{name}.csv").iloc[-1] for name in ("one", "two"))
    print(f"loss of one process {one.train_loss:.6f}, of two {two.train_loss:.6f}")
    assert two.train_loss == pytest.approx(one.train_loss, rel=1e-2)
    assert two.train_accuracy == pytest.approx(one.train_accuracy, abs=0.01)
    shapes = [{name: part.shape for name, part in load_file(tmp_path / f"{n}.safetensors").items()} for n in ("one", "two")]
    assert shapes[0] == shapes[1], "the checkpoint does not tell by how many it was trained"
