"""Training by two processes gives what one process gives with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustatt import cli
from robustatt.train.ranks import ALONE, Ranks, SyncedBatchNorm2d, synced


def test_shares_make_up_the_batch() -> None:
    rows = torch.arange(7)
    shares = [Ranks(rank, 3).share(rows) for rank in range(3)]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))


def test_the_mean_of_the_losses_is_the_loss_of_the_batch() -> None:
    """Also where the shares have different sizes, and with label smoothing."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 4, generator=generator), torch.randint(4, (7,), generator=generator)
    whole = ALONE.mean_loss(logits, labels, 7, 0.1)
    each = [
        rank.mean_loss(rank.share(logits), rank.share(labels), 7, 0.1)
        for rank in (Ranks(0, 3), Ranks(1, 3), Ranks(2, 3))
    ]
    torch.testing.assert_close(torch.stack(each).mean(), whole)


def test_synced_normalisation_alone_is_batch_norm(tmp_path: Path) -> None:
    """With one process, its outputs, gradients and running statistics are those of torch's own."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    try:
        image = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1))
        plain = nn.Sequential(nn.BatchNorm2d(3))
        other = nn.Sequential(nn.BatchNorm2d(3))
        synced(other, Ranks(0, 2))
        assert isinstance(other[0], SyncedBatchNorm2d)
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


def test_without_torchrun_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    command = ["train", "--model", "vgg", "--out", str(tmp_path / "w.safetensors"), "--distributed", "--device", "cpu"]
    assert cli.main(command) == 2
    assert "torchrun" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--adversarial", "fgsm"]], ids=["plain", "adversarial"])
def test_two_processes_are_one(tmp_path: Path, flags: list[str]) -> None:
    """Three steps on digits; the last batch is split into shares of different sizes."""
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
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    moved = 0.0
    for name, tensor in one.items():
        torch.testing.assert_close(
            two[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda said, name=name: f"{name}: {said}"
        )
        moved = max(moved, float((two[name].double() - tensor.double()).abs().max()))
    print(f"largest difference of any weight: {moved:.2g}")
