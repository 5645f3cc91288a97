"""The moving parts of a training run, on their way to disk and back."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from robustatt.errors import InputError
from robustatt.files import write_whole
from robustatt.models import Network
from robustatt.train.request import TrainRequest


class SavedRng(TypedDict):
    """States of the random generators; ``cuda`` where training is on a GPU."""

    order: Tensor
    noise: Tensor
    torch: Tensor
    cuda: NotRequired[Tensor]


class SavedRun(TypedDict):
    """What a resume file holds; files of older versions lack some of it."""

    identity: str
    data: NotRequired[str]
    epoch: int
    rows: list[dict[str, float]]
    best: NotRequired[dict[str, Tensor] | None]
    best_epoch: NotRequired[int]
    network: dict[str, Tensor]
    optimiser: StateDict
    rng: SavedRng


WAY_OUT = "delete it or train with --no-resume"


@dataclass
class Run:
    """The moving parts of a training run: what a resume file has to hold.

    ``data`` is the fingerprint of the training data. ``best`` and ``best_epoch``: the weights to be kept, where those need
    not be the last epoch's, and whose they are.
    """

    network: Network
    optimiser: torch.optim.Optimizer
    order: torch.Generator
    noise: torch.Generator
    data: str
    epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights are kept, from 1."""
        return self.best_epoch or self.epoch

    def state(self, identity: str) -> SavedRun:
        rng: SavedRng = {
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "torch": torch.get_rng_state(),
        }
        if next(self.network.parameters()).is_cuda:
            rng["cuda"] = torch.cuda.get_rng_state()
        return {
            "identity": identity,
            "data": self.data,
            "epoch": self.epoch,
            "rows": self.rows,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": rng,
        }

    def restore(self, state: SavedRun) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.rows = state["epoch"], state["rows"]
        self.best, self.best_epoch = state.get("best"), state.get("best_epoch", 0)
        self.order.set_state(state["rng"]["order"])
        self.noise.set_state(state["rng"]["noise"])
        torch.set_rng_state(state["rng"]["torch"])
        if "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"])


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if math.isnan(value) else f"{value:.6g}" for key, value in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode())


def write_state(path: Path, state: SavedRun) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    write_whole(path, content.getvalue())


def read_state(request: TrainRequest) -> SavedRun | None:
    """The state in the resume file; None if there is none or it is not asked for.

    Raises:
        InputError: the file is damaged or belongs to a run with other settings.
    """
    path = request.resume_path
    if not request.resume or not path.exists():
        return None
    try:
        state: SavedRun = torch.load(path, map_location="cpu", weights_only=True)
        same = state["identity"] == request.identity()
    except Exception as error:
        raise InputError(f"{path} cannot be read: {WAY_OUT}") from error
    if not same:
        raise InputError(f"{path} is of a run with other settings: {WAY_OUT}")
    return state


def try_resume(request: TrainRequest, run: Run) -> None:
    """Continues from the resume file, if there is one and it is asked for.

    Raises:
        InputError: the file is damaged or belongs to a run with other settings or other data.
    """
    state = read_state(request)
    if state is None:
        return
    if state.get("data", run.data) != run.data:
        raise InputError(f"{request.resume_path} is of a run on other data than {request.data!r} here: {WAY_OUT}")
    run.restore(state)
