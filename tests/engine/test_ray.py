"""The same sweep on a Ray cluster of several nodes on this machine: the same bytes, also while nodes are killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import SUPPORT
from tiny_models import images, small_net

from robustatt.attack import recipe_files as recipes
from robustatt.engine.options import ExecutorOptions
from robustatt.engine.sources import load_data, model_loader
from robustatt.engine.sweep import run
from robustatt.eps import parse_grid
from robustatt.plan import ModelEntry, Plan

STORE_BYTES = 80 * 2**20  # the least Ray takes is 75 MiB
START_SECONDS = 180  # for a node to join: two cores serve a dozen processes that all start at once
KILLS = 10
CELLS = 24
CELLS_SHOWN = 10
PIXELS = 48  # a side: a Cell takes seconds, so that a node that is killed was at one
NODE_TRIES = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of killed raylets
]


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A head without CPUs and so many nodes of one CPU each, all on this machine, with Ray's own patience for slow ones."""
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_raylet_start_wait_time_s=str(START_SECONDS),
        RAY_worker_register_timeout_seconds=str(START_SECONDS),
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(SUPPORT),
    )
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            add_node(made)
        made.wait_for_nodes(START_SECONDS)
        yield made
    finally:
        made.shutdown()


def add_node(made: Any) -> None:
    """One more node; Ray gives up a raylet that is not there after 30 s, which a busy machine may exceed."""
    for tries in range(NODE_TRIES):
        try:
            made.add_node(wait=False, num_cpus=1, object_store_memory=STORE_BYTES)
            return
        except Exception as problem:
            if "timed out during startup" not in str(problem) or tries == NODE_TRIES - 1:
                raise


def plan_of(folder: Path, examples: int, pixels: int = PIXELS) -> Plan:
    """PGD on random images labelled by the small network, read from a file."""
    batch = (images(examples, pixels) * 255).round()
    with torch.no_grad():
        label = torch.cat([small_net()(part / 255).argmax(1) for part in batch.split(256)])
    np.savez(folder / "random.npz", images=batch.to(torch.uint8).numpy(), labels=label.numpy())
    entry = ModelEntry("net", "tiny_models:small_net")
    return Plan((entry,), (recipes.load("pgd"),), parse_grid("4,8"), data=str(folder / "random.npz"))


def sweep(plan: Plan, out: Path, execution: ExecutorOptions) -> dict[str, bytes]:
    dataset = load_data(plan)
    run(plan, dataset, model_loader(dataset), out, gallery=False, execution=execution)
    return records(out)


def records(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.parquet")}


def computed(out: Path) -> Counter[str]:
    return Counter(json.loads(line)["key"] for line in (out / "log.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("local")
    plan = plan_of(folder, 256 * CELLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SUPPORT))
        return plan, sweep(plan, folder / "out", ExecutorOptions(workers=2, threads=1))


@pytest.mark.parametrize("nodes", [2, 4])
def test_the_records_are_those_of_the_local_engine(nodes: int, local: tuple[Plan, dict[str, bytes]], tmp_path: Path) -> None:
    plan, expected = local
    with cluster(nodes) as made:
        began = time.monotonic()
        found = sweep(plan, tmp_path, ExecutorOptions("ray", address=made.address))
        print(f"{CELLS} Cells on {nodes} nodes in {time.monotonic() - began:.0f} s")
    assert len(expected) == CELLS
    assert found == expected
    assert set(computed(tmp_path).values()) == {1}


def start(plan: Plan, out: Path, *flags: object) -> subprocess.Popen[str]:
    """The sweep of a plan in a process of its own."""
    what = ["--model", "net=tiny_models:small_net", "--data", plan.data, "--attack", plan.attacks[0].name, "--eps", "4,8"]
    command = [sys.executable, "-m", "robustatt", "sweep", *what, "--out", str(out), *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def at_work(process: subprocess.Popen[str], out: Path) -> bool:
    """Waits for the first record; whether the sweep still goes on then."""
    while process.poll() is None and not (out / "log.jsonl").exists():
        time.sleep(0.1)
    return process.poll() is None


def kill_a_node(made: Any, dice: random.Random) -> None:
    """One node dies with all its processes, without a word; a fresh one joins."""
    node = dice.choice(sorted(made.worker_nodes, key=lambda node: node.unique_id))
    made.remove_node(node, allow_graceful=False)
    add_node(made)


def test_nodes_killed_at_random_moments(local: tuple[Plan, dict[str, bytes]], tmp_path: Path) -> None:
    """Ten nodes are killed in the middle of sweeps, one sweep after another until ten were."""
    plan, expected = local
    dice, killed, sweeps = random.Random(0), 0, 0
    with cluster(4) as made:
        began = time.monotonic()
        while killed < KILLS:
            out = tmp_path / str(sweeps)
            process = start(plan, out, "--engine", "ray", "--address", made.address, "--workers", 4, "--threads", 1)
            sweeps += 1
            while killed < KILLS and at_work(process, out):
                time.sleep(dice.uniform(0.5, 12))
                if process.poll() is None:
                    kill_a_node(made, dice)
                    killed += 1
            _, said = process.communicate()
            print(f"sweep {sweeps}, {killed} nodes killed in {time.monotonic() - began:.0f} s; it said:\n{said}")
            assert process.returncode == 0, said
            assert records(out) == expected, "nothing lost, and every byte as it should be"
            assert set(computed(out)) == {name.removesuffix(".parquet") for name in expected}
            assert set(computed(out).values()) == {1}, "nothing twice"


def test_local_two_nodes_and_one_of_them_killed(tmp_path: Path) -> None:
    """The same command on three engines, as a user types it, and `cmp` of what they wrote."""
    plan = plan_of(tmp_path, 256 * CELLS_SHOWN, pixels=24)
    outs = {name: tmp_path / name for name in ("local", "ray", "killed")}
    with cluster(2) as made:
        on_ray = ["--engine", "ray", "--address", made.address, "--threads", 1]
        for name, flags in {"local": ["--workers", 2, "--threads", 1], "ray": on_ray, "killed": on_ray}.items():
            began = time.monotonic()
            process = start(plan, outs[name], *flags)
            if name == "killed":
                assert at_work(process, outs[name])
                kill_a_node(made, random.Random(0))
            _, said = process.communicate()
            assert process.returncode == 0, said
            print(f"{name}: exit 0 after {time.monotonic() - began:.0f} s, {sum(computed(outs[name]).values())} Cells\n{said}")
    expected = records(outs["local"])
    assert len(expected) == CELLS_SHOWN
    for name in ("ray", "killed"):
        different = [key for key in expected if not same_bytes(outs["local"] / "records" / key, outs[name] / "records" / key)]
        print(f"cmp local/records {name}/records: {len(expected) - len(different)} files the same, {len(different)} different")
        assert records(outs[name]).keys() == expected.keys()
        assert different == []


def same_bytes(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", one, other], check=False).returncode == 0
