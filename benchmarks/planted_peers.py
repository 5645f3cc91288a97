"""What the published AutoAttack says of a model on its own: the warnings it logs while it attacks."""

from __future__ import annotations

import logging

from planted.cases import Case

EPS = 32 / 255
SHORT = {
    "randomized": "randomised", "probability": "probabilities", "zero gradient": "zero gradient",
    "Square Attack has decreased": "Square stronger", "dynamic": "dynamic",
}  # fmt: skip


class Listener(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def flags(case: Case, count: int = 24) -> str:
    """The flags of the standard version at 32/255 on a few images, or how it ended."""
    from pyautoattack import autoattack, checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # the counters outlive a run
    images, labels = (part[:count] for part in case.data())
    if images.shape[-1] > 8:
        images, labels = images[:8], labels[:8]
    logger, listener = logging.getLogger("auto-attack"), Listener()
    logger.addHandler(listener)
    logger.propagate = False
    try:
        pixels = images.float() / 255 if images.dtype.itemsize == 1 else images
        autoattack.AutoAttack(case.model(), eps=EPS, seed=0).run_standard_evaluation(pixels, labels, batch_size=count)
    except Exception as problem:  # whatever it fails with is the answer
        return f"fails: {type(problem).__name__}"
    finally:
        logger.removeHandler(listener)
    found = [name for text, name in SHORT.items() if any(text in said for said in listener.said)]
    return ", ".join(found) or "-"
