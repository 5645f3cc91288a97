"""A training plan carried out: what is not there yet is trained in order; then the table and the figure of all networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from robustatt.errors import TrainingPaused
from robustatt.files import write_whole
from robustatt.models import Card, read_card
from robustatt.train.curve import curves_png, read_log
from robustatt.train.loop import OnStep, train
from robustatt.train.plan import TrainingPlan
from robustatt.train.weights_page import check_readme, write_readme

CURVES = "curves.png"


@dataclass(frozen=True)
class NetworkState:
    """How far a network of a plan is: its card once it is trained, else the epochs of its log."""

    name: str
    epochs: int
    planned: int
    card: Card | None


def train_plan(
    plan: TrainingPlan,
    minutes: float | None = None,
    begin: Callable[[str, int, int], None] = lambda *_: None,
    on_step: OnStep | None = None,
) -> list[NetworkState]:
    """Trains the networks of a plan whose weights are not there, and writes ``README.md`` and ``curves.png`` beside them.

    Args:
        plan: the networks.
        minutes: no epoch begins after so many minutes, nor one that by the time of the last would end later, but for the first.
        begin: told of each network that is to be trained: its name, its place among those that are missing, and their number.
        on_step: told of every step.

    Returns:
        How far each network is, in order.

    Raises:
        InputError: before anything is trained or written: files of another recipe are there, or data is not.
        TrainingDiverged: a loss is no longer finite; what was trained before is safe.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    missing = plan.missing()
    check_readme(plan.folder)
    try:
        for place, network in enumerate(missing, 1):
            if until is not None and place > 1 and time.monotonic() >= until:
                break
            begin(network.name, place, len(missing))
            train(network.request, on_step, until=until, curve=False)
    except TrainingPaused:
        pass
    finally:
        _write_overview(plan)
    return [_state(plan, place) for place in range(len(plan.networks))]


def _state(plan: TrainingPlan, place: int) -> NetworkState:
    network = plan.networks[place]
    request = network.request
    card = read_card(request.out) if request.out.exists() else None
    log = read_log(request.log_path) if request.log_path.exists() else []
    return NetworkState(network.name, len(log) if card is None else card.epochs or 0, request.epochs, card)


def _write_overview(plan: TrainingPlan) -> None:
    """The table and the learning curves of all weights in the plan's folder, whichever networks were trained just now."""
    logs = {path.stem: read_log(path) for path in sorted(plan.folder.glob("*.csv"))}
    if logs:
        write_whole(plan.folder / CURVES, curves_png(logs))
    if any(plan.folder.glob("*.safetensors")):
        write_readme(plan.folder, f"Networks of {plan.path.name}")
