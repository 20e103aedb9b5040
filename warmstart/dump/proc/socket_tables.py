"""Read the sockets of a network namespace, mostly from /proc without joining it.

/proc/PID/net lists the sockets of the process's own network namespace. Only sock_diag(7), through a socket in that
namespace, shows the peers of connected UNIX sockets.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from warmstart.core.network import call_in_network

Address = IPv4Address | IPv6Address

_INET_TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6")

# include/net/tcp_states.h
_TCP_LISTEN = 10
# include/uapi/linux/{netlink,sock_diag,unix_diag}.h
_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOCK_DIAG_BY_FAMILY = 20
_UDIAG_SHOW_PEER = 4
_UNIX_DIAG_PEER = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_MESSAGE = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_TIMEOUT_S = 5


@dataclass(frozen=True)
class Endpoint:
    """An address and a port."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class InetSocket:
    """A socket of the IPv4 or IPv6 family; `state` is the kernel's number of a TCP state.

    `waiting` is the length of its receive queue: bytes, or connections not accepted yet if it listens.
    """

    inode: int
    is_ipv6: bool
    state: int
    local: Endpoint
    remote: Endpoint
    waiting: int


@dataclass(frozen=True)
class SocketTables:
    """The sockets of one network namespace, by inode.

    Attributes:
        inet: bound or connected TCP, UDP and raw sockets.
        by_ends: inodes of these, by local and remote endpoint.
        unix: UNIX sockets → path or abstract name, "" if unbound.
        unix_peers: connected UNIX sockets → peer.
        netlink: netlink sockets → bytes in the receive queue.
    """

    inet: dict[int, InetSocket]
    by_ends: dict[tuple[Endpoint, Endpoint], int]
    unix: dict[int, str]
    unix_peers: dict[int, int]
    netlink: dict[int, int]


def read_socket_tables(process: Path) -> SocketTables:
    """Read the sockets of a process's network namespace; `process` is its directory in /proc.

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
        PermissionError: the caller may not join its network namespace.
    """
    net = process / "net"
    inet = [each for table in _INET_TABLES for each in _read_inet(net / table)]
    return SocketTables(
        inet={each.inode: each for each in inet},
        by_ends={(each.local, each.remote): each.inode for each in inet},
        unix={int(words[6]): " ".join(words[7:]) for words in _read_rows(net / "unix")},
        unix_peers=_read_unix_peers(process / "ns/net"),
        netlink={int(words[9]): int(words[4]) for words in _read_rows(net / "netlink")},
    )


def list_listening(process: Path) -> set[Endpoint]:
    """List the local ends of the TCP sockets that listen in a process's network namespace; errors as above."""
    net = process / "net"
    return {each.local for table in ("tcp", "tcp6") for each in _read_inet(net / table) if each.state == _TCP_LISTEN}


def _read_rows(table: Path) -> Iterator[list[str]]:
    try:
        text = table.read_text(errors="replace")
    except FileNotFoundError:  # a kernel without this protocol
        return
    yield from (line.split() for line in text.splitlines()[1:])


def _read_inet(table: Path) -> Iterator[InetSocket]:
    for words in _read_rows(table):
        yield InetSocket(
            inode=int(words[9]),
            is_ipv6=table.name.endswith("6"),
            state=int(words[3], 16),
            local=_parse_endpoint(words[1]),
            remote=_parse_endpoint(words[2]),
            waiting=int(words[4].split(":")[1], 16),
        )


def _parse_endpoint(text: str) -> Endpoint:
    """Parse `0100007F:1F90`: an address in network byte order, printed as 32-bit words in host byte order."""
    digits, port = text.split(":")
    raw = bytes.fromhex(digits)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return Endpoint(mapped or address, int(port, 16))


def _read_unix_peers(namespace: Path) -> dict[int, int]:
    """Map connected UNIX sockets of a network namespace to their peers; empty if the kernel has no `unix_diag`."""
    with _open_diag(namespace) as diag:
        diag.settimeout(_ANSWER_TIMEOUT_S)
        length = _HEADER.size + _REQUEST.size
        header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        diag.send(header + _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0, 0))
        peers: dict[int, int] = {}
        while _add_peers(diag.recv(1 << 16), peers):
            pass
        return peers


def _add_peers(data: bytes, peers: dict[int, int]) -> bool:
    """Add the sockets of one response to `peers`; return whether more responses follow."""
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR):
            return False
        message = data[at + _HEADER.size : at + length]
        inode = _MESSAGE.unpack_from(message)[4]
        peer = _find_peer(message[_MESSAGE.size :])
        if peer:
            peers[inode] = peer
        at += (length + 3) & ~3
    return True


def _find_peer(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _UNIX_DIAG_PEER:
            return int.from_bytes(attributes[_ATTRIBUTE.size : length], sys.byteorder)
        attributes = attributes[(length + 3) & ~3 :]
    return 0


def _open_diag(namespace: Path) -> socket.socket:
    """Open a sock_diag socket in another network namespace."""
    return call_in_network(namespace, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG))
