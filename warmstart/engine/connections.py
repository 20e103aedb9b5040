"""Close the TCP connections of a container's processes, as a restore with `tcp: close` does."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from warmstart.core import linux
from warmstart.dump.criu.contents import TcpState
from warmstart.dump.proc.container import closing_descriptor, read_namespace, read_tree
from warmstart.dump.state.read import find_own_pids


def close_connections(proc: Path, first_pid: int) -> int:
    """Shut down both directions of each connection: whoever reads finds its end, and whoever writes gets EPIPE.

    A restored socket of a closed connection is in this state; see `warmstart.dump.edit.sockets`.

    Args:
        proc: a procfs.
        first_pid: the first process of the container.

    Returns:
        How many were closed. Those of processes that end meanwhile, that may not be looked into, or that have a network
        namespace of their own stay as they are.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    own_pids, network = find_own_pids(proc, read_tree(proc, first_pid)), read_namespace(proc, first_pid, "net")
    closed: set[str] = set()
    for own_pid in own_pids.values():
        with contextlib.suppress(OSError):
            closed |= set(_close_those_of(own_pid, network))
    return len(closed)


def _close_those_of(pid: int, network: str) -> Iterator[str]:
    """Close the connections of a process, and yield the name of each, such as `socket:[4026]`."""
    with closing_descriptor(os.pidfd_open(pid)) as process:
        # The container's process may have ended, and one of the host have its number now.
        if read_namespace(Path("/proc"), pid, "net") != network:
            return
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                name = str(descriptor.readlink())
                if not name.startswith("socket:["):
                    continue
                with socket.socket(fileno=linux.copy_descriptor(process, int(descriptor.name))) as copy:
                    if _is_connection(copy):
                        copy.shutdown(socket.SHUT_RDWR)
                        yield name


def _is_connection(opened: socket.socket) -> bool:
    is_tcp = opened.family in (socket.AF_INET, socket.AF_INET6) and opened.type == socket.SOCK_STREAM
    # The first byte of struct tcp_info is the state.
    return is_tcp and opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TcpState.ESTABLISHED
