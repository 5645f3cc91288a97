"""How well the features of a network serve on data it was never trained on: a linear SVM on fixed features.

``transfer(TransferRequest(...))`` measures; ``write(result, folder)`` writes ``transfer.json``, ``predictions.parquet``,
``transfer.md`` and a bar figure; ``read(folder)`` reads the result back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustatt.studies.transfer.report import write
    from robustatt.studies.transfer.request import TransferRequest
    from robustatt.studies.transfer.result import Transfer, read
    from robustatt.studies.transfer.run import transfer

__all__ = ["Transfer", "TransferRequest", "read", "transfer", "write"]

_HOMES = {"Transfer": "result", "read": "result", "TransferRequest": "request", "transfer": "run", "write": "report"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"robustatt.studies.transfer.{_HOMES[name]}"), name)
