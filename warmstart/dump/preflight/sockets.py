"""Find sockets of a container that would prevent a dump, or a restore in a pod with another address.

CRIU handles sockets in `criu/sockets.c`, `sk-inet.c`, `sk-unix.c` and `sk-netlink.c` of
https://github.com/checkpoint-restore/criu (4.2), depending on the runtime's options. CRI-O runs
`runc checkpoint --file-locks` (`internal/oci/runtime_oci.go`), so neither `tcp-established`, `skip-in-flight` nor
`ext-unix-sk` is set.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from warmstart.dump.criu.contents import TcpState
from warmstart.dump.preflight.finding import Finding, error, warning
from warmstart.dump.proc.container import GONE, Container, Link, Process, read_container
from warmstart.dump.proc.socket_tables import Address, InetSocket, SocketTables, read_socket_tables

# `can_dump_inet_sk` in criu/sk-inet.c, and SYN_RECV, an unknown state for it.
_CONNECTED = frozenset(
    {
        TcpState.ESTABLISHED,
        TcpState.SYN_SENT,
        TcpState.SYN_RECV,
        TcpState.FIN_WAIT1,
        TcpState.FIN_WAIT2,
        TcpState.CLOSE_WAIT,
        TcpState.LAST_ACK,
        TcpState.CLOSING,
    }
)
# The kernel's names of the protocols that `can_dump_ipproto` and `dump_socket` accept.
_TCP = frozenset({"TCP", "TCPv6"})
_UDP = frozenset({"UDP", "UDPv6", "UDP-Lite", "UDPLITEv6"})
_DATAGRAM = _UDP | {"RAW", "RAWv6"}
_UNIX = frozenset({"UNIX", "UNIX-STREAM"})
_HARMLESS = frozenset({"PING", "PINGv6", "PACKET"})

# Peers that a warning names.
_PEERS = 5
_CLOSE_IT = (
    "Set `tcp: close` in the recipe if the application can connect again. Otherwise, let it close the connection "
    "before the checkpoint, for example in a step of beforeCheckpoint."
)


@dataclass(frozen=True)
class _Open:
    """An open socket: its process, its inode, the kernel's name of its protocol, and its namespace's sockets."""

    process: Process
    inode: int
    protocol: str
    tables: SocketTables


def find_in_sockets(container: Container, pod_addresses: Collection[Address], *, close_tcp: bool) -> Iterator[Finding]:
    """Check every open socket of the container's processes.

    Args:
        container: the container.
        pod_addresses: the pod's own addresses; a restored pod has others.
        close_tcp: whether connections are closed in the dump instead of refused.
    """
    opened = _read_open_sockets(container)
    connected: dict[Process, list[tuple[InetSocket, bool]]] = {}
    for each in opened.values():
        if each.protocol in _TCP:
            yield from _check_tcp(each, opened, pod_addresses, connected)
        elif each.protocol in _DATAGRAM:
            yield from _check_address(each, pod_addresses)
        elif each.protocol == "NETLINK":
            yield from _check_netlink(each)
        elif each.protocol not in _UNIX | _HARMLESS:
            yield _refuse(each)
    for process, rows in connected.items():
        if close_tcp:
            yield _warn_of_closed(process, [row for row, _ in rows])
        else:
            yield from _refuse_connections(process, rows)
    yield from _check_unix(container, opened)


def _read_open_sockets(container: Container) -> dict[int, _Open]:
    tables: dict[str, SocketTables] = {}
    opened: dict[int, _Open] = {}
    for process, descriptor in container.each_descriptor():
        if not descriptor.target.startswith("socket:["):
            continue
        namespace = container.resources[process.pid].namespaces["net"]
        try:
            if namespace not in tables:
                tables[namespace] = read_socket_tables(container.proc / str(process.pid))
            protocol = _read_protocol(descriptor)
        except GONE:
            continue
        if not protocol or not descriptor.is_unchanged():
            continue
        inode = int(descriptor.target[len("socket:[") : -1])
        opened.setdefault(inode, _Open(process, inode, protocol, tables[namespace]))
    return opened


def _read_protocol(descriptor: Link) -> str:
    """Return the kernel's name of the protocol (`sk_prot_creator->name`, net/socket.c); MPTCP and TCP differ in it.

    It is "" if the descriptor is no longer a socket.
    """
    try:
        return os.getxattr(descriptor.path, "system.sockprotoname").rstrip(b"\0").decode()
    except OSError as problem:
        if problem.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return ""
        raise


def _check_tcp(
    each: _Open,
    opened: Collection[int],
    pod_addresses: Collection[Address],
    connected: dict[Process, list[tuple[InetSocket, bool]]],
) -> Iterator[Finding]:
    """Check a TCP socket; if it has a peer, add it to `connected`, with whether that is in the container."""
    row = each.tables.inet.get(each.inode)
    if row is None:  # neither listening nor connected
        return
    if row.state in _CONNECTED:
        inside = each.tables.by_ends.get((row.remote, row.local)) in opened
        # Of a connection inside the container, one end is reported.
        if not inside or str(row.local) <= str(row.remote) or row.local == row.remote:
            connected.setdefault(each.process, []).append((row, inside))
        return
    yield from _check_address(each, pod_addresses)
    if row.state == TcpState.LISTEN and row.waiting:
        yield error(
            "tcp-in-flight",
            each.process,
            f"A connection to its TCP port {row.local.port} has not been accepted yet.",
            "Wait until the application accepts it, or stop the client.",
        )


def _refuse_connections(process: Process, rows: Iterable[tuple[InetSocket, bool]]) -> Iterator[Finding]:
    for row, inside in rows:
        where = " inside the container" if inside else ""
        what = f"It holds a TCP connection{where}, {row.local} to {row.remote}, {TcpState(row.state).name}."
        yield error("tcp-established", process, what, _CLOSE_IT)


def _warn_of_closed(process: Process, rows: Sequence[InetSocket]) -> Finding:
    count = "a TCP connection" if len(rows) == 1 else f"{len(rows)} TCP connections"
    peers = sorted({str(row.remote) for row in rows})
    more = f" and {len(peers) - _PEERS} more" if len(peers) > _PEERS else ""
    what = f"It holds {count}, to {', '.join(peers[:_PEERS])}{more}."
    return warning("tcp-established", process, what, "Closed in the restored container: have it connect again.")


def _check_address(each: _Open, pod_addresses: Collection[Address]) -> Iterator[Finding]:
    row = each.tables.inet.get(each.inode)
    if row is None or row.local.address not in pod_addresses or _is_connected_anew(each, row, pod_addresses):
        return
    kind = each.protocol.removesuffix("v6")
    what = f"Its {kind} socket is bound to {row.local}, the pod's own address, which a restored pod does not have"
    what += ": it restores, but receives nothing." if row.is_ipv6 else "."
    fix = "Bind it to 0.0.0.0 or ::, or close it before the checkpoint."
    # CRIU binds IPv6 sockets with IP_FREEBIND (`inet_bind` in criu/sk-inet.c): they restore, but receive nothing.
    yield (warning if row.is_ipv6 else error)("address-of-pod", each.process, what, fix)


def _is_connected_anew(each: _Open, row: InetSocket, pod_addresses: Collection[Address]) -> bool:
    """Whether it is connected from another address in a restored pod (`dump/edit/sockets.py`)."""
    return each.protocol in _UDP and row.remote.port != 0 and row.remote.address not in pod_addresses


def _check_unix(container: Container, opened: Mapping[int, _Open]) -> Iterator[Finding]:
    for each in opened.values():
        if each.protocol in _UNIX and each.inode not in each.tables.unix:
            what = f"Its UNIX socket {each.inode} belongs to another network namespace."
            fix = "Start the container without handing it open sockets."
            yield error("unix-outside", each.process, what, fix)
    suspects = _find_outer_peers(opened)
    if suspects:  # check again: the connection may have been made while the descriptors were read
        later = _read_open_sockets(read_container(container.proc, container.first.pid))
        for inode, peer in suspects.items() & _find_outer_peers(later).items():
            yield _refuse_peer(opened[inode], peer)


def _find_outer_peers(opened: Mapping[int, _Open]) -> dict[int, int]:
    """Find UNIX sockets connected to peers outside the container's processes."""
    peers = {inode: each.tables.unix_peers.get(inode, 0) for inode, each in opened.items()}
    return {inode: peer for inode, peer in peers.items() if peer and peer not in opened}


def _refuse_peer(each: _Open, peer: int) -> Finding:
    name = each.tables.unix.get(peer) or each.tables.unix.get(each.inode)
    return error(
        "unix-peer-outside",
        each.process,
        f"It is connected by a UNIX socket{' ' + name if name else ''} to a process outside the container.",
        "Have the application close that connection before the checkpoint, or start the container without it.",
    )


def _check_netlink(each: _Open) -> Iterator[Finding]:
    if each.tables.netlink.get(each.inode):
        yield error(
            "netlink-pending",
            each.process,
            f"Its netlink socket {each.inode} holds messages that it has not read.",
            "Have the application read them, or close the socket, before the checkpoint.",
        )


def _refuse(each: _Open) -> Finding:
    if each.protocol.startswith("MPTCP"):
        return error(
            "mptcp",
            each.process,
            "It uses Multipath TCP, and CRIU does not support it.",
            "Use plain TCP. For Go 1.24 and later, set GODEBUG=multipathtcp=0.",
        )
    return error(
        "socket-unsupported",
        each.process,
        f"It holds a socket of the protocol {each.protocol}, and CRIU does not support it.",
        "Have the application close it before the checkpoint.",
    )
