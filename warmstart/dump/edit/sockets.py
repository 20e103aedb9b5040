"""Close TCP sockets in a dump, so that it restores under a different address.

CRIU treats every TCP socket with a peer as a connection, even if the kernel has closed it already: after a reset, the
peer's address remains. Such a socket restores only with `tcp-established`, if its own address exists, or with
`tcp-close`. Without a peer and an own address it is an ordinary unconnected socket and restores anywhere
(`tcp_connection` and `open_inet_sk` in `criu/sk-inet.c`, `restore_one_tcp` in `criu/sk-tcp.c` of
https://github.com/checkpoint-restore/criu, 4.2).

The application sees the same as with `tcp-close`: a descriptor that has hung up, reads nothing and refuses writes. The
content of its queues is lost.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import FileType, Socket, TcpState, as_socket
from warmstart.dump.criu.entries import Entry, decode, edit_image, read_image, read_only_entry, write_image

_DATAGRAM = (socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE)
_SHUT_BOTH = 3  # sk_shutdown in images/sk-opts.proto
_NETWORK_LOCK_SKIP = 2  # NETWORK_LOCK_METHOD in criu/include/cr_options.h


def close_sockets(directory: Path, *, established: bool) -> tuple[Socket, ...]:
    """Make closed TCP sockets of a dump plain, and connected ones too if `established` is true.

    If no connection is left, the settings that only connections need are also cleared: the network lock, and
    `tcp-close`. CRIU requires `tcp-close` at the restore of a dump made with it.

    Returns:
        The changed sockets, in their original state.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    path = directory / "files.img"
    closed: list[Socket] = []
    connections_left = False
    entries: list[Entry] = []
    for entry in read_image(path):
        file = decode(path, entry, protos.File)
        found = as_socket(path, entry, file.isk) if file.type == FileType.INET_SOCKET else None
        if found is None or not _is_connection(found):
            entries.append(entry)
        elif established or found.state == TcpState.CLOSE:
            closed.append(found)
            _close(file.isk)
            entries.append(entry.replaced_by(file))
        else:
            connections_left = True
            entries.append(entry)
    if closed:
        write_image(path, entries)
        for each in closed:
            (directory / f"tcp-stream-{each.inode:x}.img").unlink(missing_ok=True)
    if not connections_left:
        _remove_connections(directory)
    return tuple(closed)


def reconnect_datagrams(directory: Path) -> int:
    """Restore connected UDP sockets under any address: the kernel chooses a new one as they are connected again.

    CRIU binds a socket to its old address before it connects it (`open_inet_sk`). The address is usually not bound by
    the application but chosen by connect(2). Connections within the loopback interface stay as they are.

    Returns:
        Number of changed sockets.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    path = directory / "files.img"
    entries, changed = [], 0
    for entry in read_image(path):
        file = decode(path, entry, protos.File)
        found = as_socket(path, entry, file.isk) if file.type == FileType.INET_SOCKET else None
        if found is not None and _is_connected_datagram(found):
            file.isk.src_addr[:] = [0] * len(file.isk.src_addr)
            entry = entry.replaced_by(file)
            changed += 1
        entries.append(entry)
    if changed:
        write_image(path, entries)
    return changed


def _is_connected_datagram(found: Socket) -> bool:
    if found.protocol not in _DATAGRAM or not found.destination.port:
        return False
    address = found.destination.address
    return not (getattr(address, "ipv4_mapped", None) or address).is_loopback


def clear_owners(directory: Path) -> int:
    """Restore no owner for deleted or renamed files of unix sockets.

    If CRIU cannot query the kernel for the file, it records root as the owner, and only root can restore that
    (`unix_resolve_name_old` in criu/sk-unix.c). A JVM has such a socket after a tool has attached to it.

    Returns:
        Number of changed sockets.

    Raises:
        ArchiveError: a file of the dump is missing or not understood.
    """
    return edit_image(directory / "files.img", protos.File, _clear_owner)


def _clear_owner(file: Any) -> bool:
    if not file.usk.deleted or not file.usk.HasField("file_perms"):
        return False
    file.usk.ClearField("file_perms")
    return True


def _is_connection(found: Socket) -> bool:
    return found.is_tcp and found.destination.port != 0


def _close(message: Any) -> None:
    message.state = TcpState.CLOSE
    message.src_port = message.dst_port = 0
    message.src_addr[:] = [0] * len(message.src_addr)
    message.dst_addr[:] = [0] * len(message.dst_addr)
    message.ClearField("ifname")
    message.shutdown = _SHUT_BOTH


def _remove_connections(directory: Path) -> None:
    """Record in the inventory that no connection is restored.

    A restore locks the network as the dump did (`check_img_inventory` in criu/image.c), by default with seven runs of
    iptables, so that no packet reaches a half-restored connection. Without connections this only costs time, and drops
    packets of new clients.
    """
    path = directory / "inventory.img"
    entry = read_only_entry(path)
    inventory = decode(path, entry, protos.Inventory)
    inventory.ClearField("tcp_close")
    inventory.network_lock_method = _NETWORK_LOCK_SKIP
    write_image(path, [entry.replaced_by(inventory)])
