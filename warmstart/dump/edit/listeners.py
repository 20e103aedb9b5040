"""Find the TCP sockets of a dump that can listen before the restore, so that early clients wait and are not refused.

Only sockets that listen on any address can: an address or a device may not exist yet.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType, TcpState, as_socket
from warmstart.dump.criu.entries import decode, read_image


@dataclass(frozen=True)
class Listener:
    """A socket that listens on any address.

    Attributes:
        network: `tcp4`, `tcp6`, or `tcp46` for both.
        port: TCP port.
        backlog: as for listen(2).
        inode: inode number at the dump.
    """

    network: str
    port: int
    backlog: int
    inode: int


def find_listeners(directory: Path) -> tuple[Listener, ...]:
    """Find these sockets in a dump, in the order of its files.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    path = directory / "files.img"
    found = []
    for entry in read_image(path):
        file = decode(path, entry, protos.File)
        if file.type != FileType.INET_SOCKET:
            continue
        one = as_socket(path, entry, file.isk)
        listens = one.is_tcp and one.state == TcpState.LISTEN
        if listens and one.source.address.is_unspecified and not _is_tied(file.isk):
            found.append(Listener(_find_network(file.isk), one.source.port, file.isk.backlog, one.inode))
    return tuple(found)


def _is_tied(message: Any) -> bool:
    return bool(message.ifname or message.opts.so_bound_dev)


def _find_network(message: Any) -> str:
    if message.family == socket.AF_INET:
        return "tcp4"
    return "tcp6" if message.v6only else "tcp46"
