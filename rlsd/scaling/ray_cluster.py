"""Ray itself: whether it is here, and how to join a cluster. Without torch, which a task may not need."""

from __future__ import annotations

import importlib
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_CONNECT = 10.0  # seconds


def import_ray() -> Any:
    """Return the module ``ray``.

    :raises ImportError: when it is not installed; the message says which extra brings it.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("RayWorkers need Ray: pip install 'rlsd[ray]'") from error


def connect(address: str | None, init: Mapping[str, Any]) -> bool:
    """Connect to a cluster, or start Ray on this machine, and return whether it was started here.

    A connection that exists is used.

    :raises ValueError: when nobody answers at the address, or it runs other versions.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", **init}
    if address is None:
        settings = {"include_dashboard": False, "object_store_memory": 200 * 2**20, **settings}
    else:
        _knock(address)
    try:
        with warnings.catch_warnings(), _own_sigterm():
            warnings.simplefilter("ignore")  # of Ray's own plans
            # Of None, Ray makes the cluster that was last started on this machine, whosever it is.
            ray.init(address=address or "local", **settings)
    except Exception as error:  # Ray raises bare ones, too
        where = "on this machine" if address is None else f"at {address!r}"
        raise ValueError(f"no Ray cluster {where}: {' '.join(str(error).split())[:300]}") from error
    return address is None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does at SIGTERM, such as to save: Ray lets it exit at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Ask whether somebody listens, which Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster at {address!r}: nobody answered within {_CONNECT:g} s ({error}). "
            "Start one with: ray start --head"
        ) from error
