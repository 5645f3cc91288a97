"""Who computes which Cell: this process, processes of this machine, or the workers of a Ray cluster.

`sweep` runs a plan; `scheduler` decides who is next; an `Executor` computes Cells; a `Worker` is what computes one.
"""

from robustatt.engine.models import FrozenModels, Loader
from robustatt.engine.options import Execution
from robustatt.engine.progress import Progress, Silent
from robustatt.engine.sources import load_data, match_channels, model_loader
from robustatt.engine.sweep import Outcome, bound, run
from robustatt.engine.worker import automatic_batch_size

__all__ = [
    "Execution", "FrozenModels", "Loader", "Outcome", "Progress", "Silent", "automatic_batch_size", "bound", "load_data",
    "match_channels", "model_loader", "run",
]  # fmt: skip
