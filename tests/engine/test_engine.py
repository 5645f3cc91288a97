"""The engine with real models: the same bytes whoever computes them, and no failure that loses anything."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from failing_models import CHILD_SECONDS
from paths import SUPPORT
from tiny_models import images, small_net
from torch import Tensor, nn

import robustatt
from robustatt import cli
from robustatt.attack import recipe_files as recipes
from robustatt.data import TensorDataset
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.sources import load_data, model_loader
from robustatt.engine.sweep import run as run_plan
from robustatt.eps import parse_grid
from robustatt.errors import RunInterrupted
from robustatt.plan import Cell, ModelEntry, Plan
from robustatt.progress import NoSweepProgress


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """600 random images of 12x12 labelled by the small network; number 300 is white."""
    batch = (images(600, 12) * 255).round()
    batch[300] = 255
    with torch.no_grad():
        label = small_net()(batch / 255).argmax(1)
    path = tmp_path / "random.npz"
    np.savez(path, images=batch.to(torch.uint8).numpy(), labels=label.numpy())
    return path


def plan_for(npz: Path, model: str = "tiny_models:small_net") -> Plan:
    entry = ModelEntry("net", model)
    return Plan((entry,), (recipes.load("fgsm"),), parse_grid("2,6"), data=str(npz))


def run(plan: Plan, out: Path, execution: ExecutorOptions | None, progress: NoSweepProgress | None = None) -> dict[str, bytes]:
    dataset = load_data(plan)
    run_plan(plan, dataset, model_loader(dataset), out, progress, gallery=False, execution=execution)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.parquet")}


class KillThemOnce(NoSweepProgress):
    """Kills all workers when the first progress is told, and remembers what failed."""

    def __init__(self) -> None:
        self.killed = 0
        self.images, self.causes = 0, list[str]()

    def advance(self, cell: Cell, images: int) -> None:  # noqa: ARG002
        self.images += images
        if not self.killed:
            for worker in multiprocessing.active_children():
                self.killed += 1
                worker.kill()

    def failed(self, cell: Cell, cause: str, log: str) -> None:  # noqa: ARG002
        self.causes.append(cause)


def test_two_processes_that_are_killed_give_the_same_bytes(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    expected = run(plan_for(npz), tmp_path / "one", ExecutorOptions(workers=1))
    assert len(expected) == 3
    watching = KillThemOnce()
    found = run(plan_for(npz), tmp_path / "two", ExecutorOptions(workers=2), watching)
    assert found == expected
    assert watching.images == 600 * 2, "what the killed workers had told is taken back"
    assert watching.killed == 2
    assert watching.causes
    assert all(re.search(r"\(process \d+\) was killed by SIGKILL", cause) for cause in watching.causes)
    assert multiprocessing.active_children() == []


class FailsAt(nn.Module):
    """Raises on a batch of more than 16 that holds a white image, so many times once it is armed."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.net, self.left, self.message = small_net(), [0], message

    def __deepcopy__(self, memo: object) -> nn.Module:
        return self  # so that every copy counts on the same list

    def forward(self, image: Tensor) -> Tensor:
        white = bool((image == 1).all((1, 2, 3)).any())
        if white and len(image) > 16 and self.left[0]:
            self.left[0] -= 1
            raise RuntimeError(self.message)
        return self.net(image)


class Arming(NoSweepProgress):
    """Lets the model's checks pass and its Cells fail."""

    def __init__(self, model: FailsAt, times: int) -> None:
        self.model, self.times = model, times

    def begin(self, images: int, cells: int, cells_ready: int) -> None:  # noqa: ARG002
        self.model.left[0] = self.times


def sweep_failing(model: FailsAt, times: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """FGSM on 60 images in Cells of 20; number 40 is white."""
    monkeypatch.setattr("robustatt.plan.cells.CELL_EXAMPLES", 20)
    batch = images(60, 12)
    batch[40] = 1.0
    dataset = TensorDataset(batch, small_net()(batch).argmax(1), classes="abcde")
    plan = Plan((ModelEntry("net", "net"),), (recipes.load("fgsm"),), parse_grid("2"))
    return run_plan(plan, dataset, lambda _: model, out, Arming(model, times), gallery=False).records


def test_a_cell_that_fails_twice_is_computed_the_third_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sweep_failing(FailsAt("flaky"), 0, tmp_path / "a", monkeypatch)
    assert sweep_failing(FailsAt("flaky"), 2, tmp_path / "b", monkeypatch).equals(expected)


def test_a_cell_that_fails_three_times_is_named_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FailsAt("the disk is on fire")
    with pytest.raises(RunInterrupted, match=r"net under fgsm, examples 40 to 59: RuntimeError: the disk") as caught:
        sweep_failing(broken, 3, tmp_path, monkeypatch)
    assert "1 cell could not be computed" in str(caught.value)
    assert "Safe on disk: 2 of 3 cells" in str(caught.value)
    assert caught.value.exit_code == 3
    assert len(sweep_failing(broken, 0, tmp_path, monkeypatch)) == 120, "the same command goes on"


def test_out_of_memory_halves_the_batch_until_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(sweep_failing(FailsAt("CUDA out of memory"), 10**6, tmp_path, monkeypatch)) == 120
    sizes = [json.loads(line)["batch_size"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sizes == [64, 64, 16], "64 and 32 hold all 20 images of the Cell, 16 is the first that does not"


def test_a_worker_killed_for_memory_halves_its_batch(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills without a word to the process: its count of such kills tells it from any other SIGKILL."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    counts = iter(range(100))
    monkeypatch.setattr("robustatt.engine.processes.kernel_oom_kills", lambda: next(counts))
    watching = KillThemOnce()
    run(plan_for(npz, "failing_models:slow"), tmp_path, ExecutorOptions(workers=2), watching)
    assert set(watching.causes) == {"its worker was killed because memory ran out; tried again"}
    sizes = [json.loads(line)["batch_size"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert min(sizes) == 32


def test_records_that_are_not_seen_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster whose workers have an --out of their own: no summary is made of what is not there."""
    monkeypatch.setattr("robustatt.results.records.Store.put", lambda *_: None)
    with pytest.raises(RunInterrupted, match="workers wrote 3 cells where this machine does not see them"):
        sweep_failing(FailsAt(""), 0, tmp_path, monkeypatch)
    assert not (tmp_path / "summary.json").exists()


def test_randomised_models_give_the_same_bytes_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random state belongs to the Cell, not to what was computed before it."""
    monkeypatch.setattr("robustatt.plan.cells.CELL_EXAMPLES", 20)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, image: Tensor) -> Tensor:
            return self.net(image + 0.1 * torch.randn_like(image))

    batch = images(60, 12)
    label = small_net()(batch).argmax(1)
    whole = robustatt.sweep(Noisy(), (batch, label), eps="2", out=tmp_path / "a").records
    robustatt.sweep(Noisy(), (batch, label), eps="2", out=tmp_path / "b")
    for path in sorted((tmp_path / "b" / "records").iterdir())[:2]:
        path.unlink()
    assert robustatt.sweep(Noisy(), (batch, label), eps="2", out=tmp_path / "b").records.equals(whole)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def cli_run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "--model", "vgg", "--eps", "2,4", "-n", 24, "--out", "out"]
    assert cli_run(*command, "--dry-run", "--workers", 3) == 0
    said = capsys.readouterr().out
    assert "1 cell: 24 gradients, 72 forwards" in said, "one gradient, two radii and the clean image"
    assert "peak memory" in said
    assert cli_run(*command, "--dry-run", "--time", "1h", "--until", "20") == 0
    said = capsys.readouterr().out
    assert "About 24 of 24 examples fit into --time 1h. --until 20 needs 24 examples at the most." in said
    assert cli_run(*command, "--dry-run", "--time", "0.0001s", "--workers", 1) == 0
    assert "About 0 of 24 examples fit" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert cli_run(*command) == 0
    assert cli_run(*command, "--dry-run") == 0
    assert "0 cells, 1 more found on disk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--engine", "rya"], "did you mean 'ray'"),
        (["--workers", "many"], "--workers"),
        (["--engine", "ray", "--address", "nohost"], "HOST:PORT"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "no answer"),
        (["--records", "s4://bucket/x"], "did you mean 's3'"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli_run("sweep", "--model", "vgg", "-n", 4, *flags) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "said"), [(b"HTTP/1.1 400 Bad Request", "not Ray"), (b"", "not Ray"), (None, "no answer")])
def test_an_address_where_nothing_is_ray(
    answer: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustatt.engine.ray_connection.ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(100)
                if answer is None:
                    time.sleep(1)
                else:
                    line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert cli_run("sweep", "--model", "vgg", "-n", 4, "--engine", "ray", "--address", address) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_install_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    assert cli_run("sweep", "--model", "vgg", "-n", 4, "--engine", "ray") == 2
    assert capsys.readouterr().err == "robustatt: --engine ray: Ray is not installed: pip install 'robustatt[ray]'\n"


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "robustatt", "sweep", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_records(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["failing_models:kills_its_worker", "failing_models:leaves_a_child"])
def test_a_cell_that_kills_its_worker_is_set_aside(model: str, npz: Path, tmp_path: Path) -> None:
    """Also when a child of the worker lives on, and with it the worker's end of the line to the driver."""
    out = tmp_path / "out"
    command = ["--model", model, "--data", npz, "--eps", 2, "--out", out]
    process = start(*command, "--workers", 2)
    process.wait(2.5 * CHILD_SECONDS)  # not three children long
    _, said = process.communicate()
    assert process.returncode == 3, said
    assert "1 cell could not be computed" in said
    name = f"{model} under fgsm, examples 256 to 511"
    assert said.count(f"{name}: its worker") >= 3, "each failure is told with the Cell's name"
    assert "killed by SIGKILL" in said
    assert "a white image came in" in said, "what the worker said reaches the user"
    assert "Safe on disk: 2 of 3 cells" in said
    again = start(*command, "--workers", 1)
    _, said = again.communicate()
    assert again.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_the_driver_stopped_and_started_again(npz: Path, tmp_path: Path, how: signal.Signals) -> None:
    def command(out: str) -> list[object]:
        models = ["--model", "tiny_models:small_net", "--data", npz, "--attack", "pgd", "--attack", "fgsm"]
        return [*models, "--eps", "1..16", "--workers", 2, "--out", tmp_path / out]

    stopped = start(*command("stopped"))
    wait_for_records(tmp_path / "stopped" / "records", 1, stopped)
    workers = children(stopped.pid)
    assert len(workers) >= 2
    stopped.send_signal(how)
    _, said = stopped.communicate()
    if how is signal.SIGINT:
        assert stopped.returncode == 130, said
        assert re.search(r"stopped by Ctrl-C. Safe on disk: \d of 6 cells", said)
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < limit, "the workers outlive the driver"
        time.sleep(0.05)
    for out in ("stopped", "whole"):
        process = start(*command(out))
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 6
