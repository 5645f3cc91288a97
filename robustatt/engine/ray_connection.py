"""The connection of a sweep to a Ray cluster: found, or said in one line why not."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from robustatt.engine.options import ExecutorOptions
from robustatt.errors import InputError

INSTALL = "pip install 'robustatt[ray]'"
ANSWER_SECONDS = 10.0
STANDARD_ERROR = 2
HTTP2_SETTINGS = b"\x04"
#: what a client of gRPC, which Ray speaks, says first; a server answers with a frame of its settings
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + HTTP2_SETTINGS + b"\x00" * 5
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
#: at an address that speaks gRPC and is not Ray, Ray tries once a second
TRIES = {"RAY_NUM_REDIS_GET_RETRIES": "8"}


def ray_module() -> Any:
    """Ray, imported when it is needed. ImportError if it is not installed."""
    return importlib.import_module("ray")


@contextmanager
def connected(execution: ExecutorOptions) -> Iterator[None]:
    """A connection to the cluster the user named, or to a Ray of this machine alone; one that is there already is used.

    Raises:
        InputError: Ray is not installed, or there is no answer at the address within ten seconds.
    """
    named = execution.address not in (None, "auto")
    for name, value in (QUIET | TRIES if named else QUIET).items():
        os.environ.setdefault(name, value)
    try:
        ray = ray_module()
    except ImportError:
        raise InputError(f"--engine ray: Ray is not installed: {INSTALL}") from None
    if ray.is_initialized():
        yield
        return
    address = execution.address
    if named:
        _require_answer(str(address))
    try:
        extra = {"include_dashboard": False} if address is None and "RAY_ADDRESS" not in os.environ else {}
        with _unheard() if named else nullcontext():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **extra)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(
            f"--address {address}: no Ray cluster answers ({said}): start one with `ray start --head`, or give HOST:PORT"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """What Ray's C++ writes to standard error while it looks for a cluster is dropped: its exception says it too."""
    sys.stderr.flush()
    kept, nowhere = os.dup(STANDARD_ERROR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_ERROR)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)


def _require_answer(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--address {address!r}: give auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as line:
            line.settimeout(ANSWER_SECONDS)
            line.sendall(HTTP2_GREETING)
            answer = line.recv(9) if os.environ.get("RAY_USE_TLS", "0") == "0" else HTTP2_GREETING[-9:]
    except OSError as problem:
        raise InputError(f"--address {address}: no answer ({problem}): is the head node up, and the port open?") from None
    if answer[3:4] != HTTP2_SETTINGS:
        raise InputError(f"--address {address}: what answers is not Ray: give the port of `ray start --head`, usually 6379")
