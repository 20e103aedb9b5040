"""Wait for the ports that a ready container declares."""

from __future__ import annotations

import contextlib
import socket
import time

from warmstart.core.errors import ClusterError
from warmstart.engine.target import Target
from warmstart.recipe.model import Container

# A probe can succeed too early: an image of PostgreSQL answers on a UNIX socket while it sets up the database. The
# ports that a container declares get this long in addition, since images also declare ports that they never open.
PORTS_S = 10.0
# Limit for a connection, and for an answer through one that is forwarded.
ATTEMPT_S = 0.3


def await_ports(target: Target, container: Container, *, forwarded: bool = False) -> None:
    """Wait until the TCP ports of a ready container are open, for PORTS_S at most.

    Args:
        target: the container.
        container: its declaration.
        forwarded: whether connections are forwarded, as by the API server: they open in any case, and are closed if
            nothing listens.
    """
    deadline = time.monotonic() + PORTS_S
    for port in container.ports:
        if port.protocol == "TCP":
            while time.monotonic() < deadline and not _listens(target, port.container_port, forwarded=forwarded):
                time.sleep(ATTEMPT_S)


def _listens(target: Target, port: int, *, forwarded: bool) -> bool:
    try:
        with contextlib.closing(target.connect(port, None, ATTEMPT_S)) as connection:
            return not forwarded or _stays_open(connection)
    except (OSError, ClusterError):
        return False


def _stays_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        # It waits for us to begin.
        return True
