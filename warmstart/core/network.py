"""Connections made in another network namespace, where a pod can be reached that we cannot see."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from warmstart.core import linux

T = TypeVar("T")


def call_in_network(namespace: Path, call: Callable[[], T]) -> T:
    """Call something on a thread of its own that has entered the network namespace at `namespace`.

    A socket made there stays there, whoever uses it later.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                linux.setns(descriptor, linux.CLONE_NEWNET)
            finally:
                os.close(descriptor)
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def connect_in(namespace: Path, address: tuple[str, int], timeout_s: float) -> socket.socket:
    """A TCP connection made in another network namespace; errors as `socket.create_connection`."""
    return call_in_network(namespace, lambda: socket.create_connection(address, timeout_s))
