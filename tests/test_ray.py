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
from conftest import images, small_net

from robustatt.attack import recipe as recipes
from robustatt.engine import Execution, load_data, model_loader, run
from robustatt.eps import parse_grid
from robustatt.plan import ModelEntry, Plan

HERE = Path(__file__).parent
STORE_BYTES = 200 * 2**20
KILLS = 10
CELLS = 16
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of killed raylets
]


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A head without CPUs and so many nodes of one CPU each, all on this machine."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1", PYTHONPATH=str(HERE))
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield made
    finally:
        made.shutdown()


def plan_of(folder: Path, examples: int, attack: str = "pgd") -> Plan:
    """PGD on random images of 12x12 labelled by the small network, read from a file."""
    batch = (images(examples, 12) * 255).round()
    with torch.no_grad():
        label = small_net()(batch / 255).argmax(1)
    np.savez(folder / "random.npz", images=batch.to(torch.uint8).numpy(), labels=label.numpy())
    entry = ModelEntry("net", "conftest:small_net")
    return Plan((entry,), (recipes.load(attack),), parse_grid("4,8"), data=str(folder / "random.npz"))


def sweep(plan: Plan, out: Path, execution: Execution) -> dict[str, bytes]:
    dataset = load_data(plan)
    run(plan, dataset, model_loader(dataset), out, gallery=False, execution=execution)
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.parquet")}


def computed(out: Path) -> Counter[str]:
    return Counter(json.loads(line)["key"] for line in (out / "log.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("local")
    plan = plan_of(folder, 256 * CELLS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        return plan, sweep(plan, folder / "out", Execution(workers=1, threads=1))


@pytest.mark.parametrize("nodes", [2, 4])
def test_the_records_are_those_of_the_local_engine(
    nodes: int, local: tuple[Plan, dict[str, bytes]], tmp_path: Path
) -> None:
    plan, expected = local
    with cluster(nodes) as made:
        found = sweep(plan, tmp_path, Execution("ray", address=made.address))
    assert len(expected) == CELLS
    assert found == expected
    assert set(computed(tmp_path).values()) == {1}


def test_nodes_killed_at_random_moments(local: tuple[Plan, dict[str, bytes]], tmp_path: Path) -> None:
    """A node is killed and a fresh one put in its place, again and again while the sweep runs."""
    plan, expected = local
    dice, killed = random.Random(0), 0
    with cluster(4) as made:
        flags = ["--engine", "ray", "--address", made.address, "--workers", "4", "--out", str(tmp_path)]
        what = ["--model", "net=conftest:small_net", "--data", plan.data, "--attack", "pgd", "--eps", "4,8"]
        command = [sys.executable, "-m", "robustatt", "sweep", *what, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and killed < KILLS:
            time.sleep(dice.uniform(0.5, 6))
            node = dice.choice(sorted(made.worker_nodes, key=lambda node: node.unique_id))
            made.remove_node(node, allow_graceful=False)
            made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
            killed += process.poll() is None
        _, said = process.communicate()
    print(f"{killed} nodes were killed while the sweep ran; it said:\n{said}")
    assert process.returncode == 0, said
    assert killed >= 3, "too few nodes were killed while the sweep ran to show anything"
    found = {path.name: path.read_bytes() for path in (tmp_path / "records").glob("*.parquet")}
    assert found == expected
    assert set(computed(tmp_path).values()) == {1}, "nothing twice"
