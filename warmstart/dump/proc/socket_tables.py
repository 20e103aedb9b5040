"""A network namespace's sockets, found without joining it where /proc has them.

/proc/PID/net lists the sockets of the process's own network namespace. Who is connected to whom by UNIX sockets is told
only by sock_diag(7), to a socket that lives in that namespace.
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

    `waiting` is what its receive queue holds: bytes, and connections not accepted yet for one that listens.
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
        inet: the TCP, UDP and raw sockets that are bound or connected.
        by_ends: their inodes, by local and remote end.
        unix: UNIX sockets → the path or abstract name they are bound to, "" for none.
        unix_peers: connected UNIX sockets → the other end.
        netlink: netlink sockets → bytes in their receive queue.
    """

    inet: dict[int, InetSocket]
    by_ends: dict[tuple[Endpoint, Endpoint], int]
    unix: dict[int, str]
    unix_peers: dict[int, int]
    netlink: dict[int, int]


def read_socket_tables(process: Path) -> SocketTables:
    """Read the sockets of a process's network namespace; `process` is its directory in /proc.

    Raises:
        FileNotFoundError, ProcessLookupError: it has ended.
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
    """Parse `0100007F:1F90`: 32-bit words of the machine's byte order, in network order of bytes in memory."""
    digits, port = text.split(":")
    raw = bytes.fromhex(digits)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return Endpoint(mapped or address, int(port, 16))


def _read_unix_peers(namespace: Path) -> dict[int, int]:
    """Connected UNIX sockets of a network namespace → their peers; empty when the kernel has no `unix_diag`."""
    with _open_diag(namespace) as diag:
        diag.settimeout(_ANSWER_TIMEOUT_S)
        length = _HEADER.size + _REQUEST.size
        header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        diag.send(header + _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0, 0))
        peers: dict[int, int] = {}
        while _take_answers(diag.recv(1 << 16), peers):
            pass
        return peers


def _take_answers(data: bytes, peers: dict[int, int]) -> bool:
    """Add the sockets in one answer to the peers; whether more is to come."""
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
