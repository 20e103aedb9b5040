"""Read the options of sockets, and the multicast groups of a network namespace.

Sources: socket(7), ip(7), ipv6(7), tcp(7), udp(7), and the `uapi` headers of the kernel for the numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import socket
import struct
from collections.abc import Iterator

from warmstart.core.linux import BPF_BYTES, read_packet_filter
from warmstart.dump.proc.status import read_text
from warmstart.dump.state.model import IDENTITY, Facts

_SOCKET = {
    "SO_DEBUG": 1,
    "SO_REUSEADDR": 2,
    "SO_DONTROUTE": 5,
    "SO_BROADCAST": 6,
    "SO_SNDBUF": 7,
    "SO_RCVBUF": 8,
    "SO_KEEPALIVE": 9,
    "SO_OOBINLINE": 10,
    "SO_NO_CHECK": 11,
    "SO_PRIORITY": 12,
    "SO_LINGER": 13,
    "SO_REUSEPORT": 15,
    "SO_PASSCRED": 16,
    "SO_RCVLOWAT": 18,
    "SO_RCVTIMEO": 20,
    "SO_SNDTIMEO": 21,
    "SO_BINDTODEVICE": 25,
    "SO_TIMESTAMP": 29,
    "SO_PASSSEC": 34,
    "SO_TIMESTAMPNS": 35,
    "SO_MARK": 36,
    "SO_TIMESTAMPING": 37,
    "SO_PEEK_OFF": 42,
    "SO_RXQ_OVFL": 40,
    "SO_NOFCS": 43,
    "SO_LOCK_FILTER": 44,
    "SO_SELECT_ERR_QUEUE": 45,
    "SO_BUSY_POLL": 46,
    "SO_MAX_PACING_RATE": 47,
    "SO_ZEROCOPY": 60,
    "SO_TXTIME": 61,
    "SO_BUSY_POLL_BUDGET": 70,
    "SO_BUF_LOCK": 72,
    "SO_RESERVE_MEM": 73,
    "SO_TXREHASH": 74,
    "SO_PREFER_BUSY_POLL": 69,
    "SO_PASSPIDFD": 76,
    "SO_RCVPRIORITY": 82,
    "SO_PASSRIGHTS": 83,
    "SO_INQ": 84,
}
_IP = {
    "IP_TOS": 1,
    "IP_TTL": 2,
    "IP_HDRINCL": 3,
    "IP_OPTIONS": 4,
    "IP_ROUTER_ALERT": 5,
    "IP_RECVOPTS": 6,
    "IP_RETOPTS": 7,
    "IP_PKTINFO": 8,
    "IP_MTU_DISCOVER": 10,
    "IP_RECVERR": 11,
    "IP_RECVTTL": 12,
    "IP_RECVTOS": 13,
    "IP_FREEBIND": 15,
    "IP_PASSSEC": 18,
    "IP_TRANSPARENT": 19,
    "IP_RECVORIGDSTADDR": 20,
    "IP_MINTTL": 21,
    "IP_NODEFRAG": 22,
    "IP_CHECKSUM": 23,
    "IP_BIND_ADDRESS_NO_PORT": 24,
    "IP_RECVFRAGSIZE": 25,
    "IP_RECVERR_RFC4884": 26,
    "IP_MULTICAST_IF": 32,
    "IP_MULTICAST_TTL": 33,
    "IP_MULTICAST_LOOP": 34,
    "IP_MULTICAST_ALL": 49,
    "IP_UNICAST_IF": 50,
    "IP_LOCAL_PORT_RANGE": 51,
}
_IPV6 = {
    "IPV6_CHECKSUM": 7,
    "IPV6_UNICAST_HOPS": 16,
    "IPV6_MULTICAST_IF": 17,
    "IPV6_MULTICAST_HOPS": 18,
    "IPV6_MULTICAST_LOOP": 19,
    "IPV6_MTU_DISCOVER": 23,
    "IPV6_RECVERR": 25,
    "IPV6_V6ONLY": 26,
    "IPV6_MULTICAST_ALL": 29,
    "IPV6_ROUTER_ALERT_ISOLATE": 30,
    "IPV6_RECVERR_RFC4884": 31,
    "IPV6_FLOWINFO_SEND": 33,
    "IPV6_HDRINCL": 36,
    "IPV6_RECVPKTINFO": 49,
    "IPV6_RECVHOPLIMIT": 51,
    "IPV6_RECVHOPOPTS": 53,
    "IPV6_HOPOPTS": 54,
    "IPV6_RECVRTHDR": 56,
    "IPV6_RTHDR": 57,
    "IPV6_RECVDSTOPTS": 58,
    "IPV6_DSTOPTS": 59,
    "IPV6_RECVPATHMTU": 60,
    "IPV6_DONTFRAG": 62,
    "IPV6_RECVTCLASS": 66,
    "IPV6_TCLASS": 67,
    "IPV6_AUTOFLOWLABEL": 70,
    "IPV6_ADDR_PREFERENCES": 72,
    "IPV6_MINHOPCOUNT": 73,
    "IPV6_RECVORIGDSTADDR": 74,
    "IPV6_TRANSPARENT": 75,
    "IPV6_UNICAST_IF": 76,
    "IPV6_RECVFRAGSIZE": 77,
    "IPV6_FREEBIND": 78,
}
_TCP = {
    "TCP_NODELAY": 1,
    "TCP_MAXSEG": 2,
    "TCP_CORK": 3,
    "TCP_KEEPIDLE": 4,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 6,
    "TCP_SYNCNT": 7,
    "TCP_LINGER2": 8,
    "TCP_DEFER_ACCEPT": 9,
    "TCP_WINDOW_CLAMP": 10,
    "TCP_CONGESTION": 13,
    "TCP_THIN_LINEAR_TIMEOUTS": 16,
    "TCP_USER_TIMEOUT": 18,
    "TCP_FASTOPEN": 23,
    "TCP_NOTSENT_LOWAT": 25,
    "TCP_SAVE_SYN": 27,
    "TCP_FASTOPEN_CONNECT": 30,
    "TCP_ULP": 31,
    "TCP_FASTOPEN_KEY": 33,
    "TCP_FASTOPEN_NO_COOKIE": 34,
    "TCP_INQ": 36,
    "TCP_TX_DELAY": 37,
    "TCP_RTO_MAX_MS": 44,
}
_UDP = {"UDP_CORK": 1, "UDP_ENCAP": 100, "UDP_NO_CHECK6_TX": 101, "UDP_NO_CHECK6_RX": 102, "UDP_SEGMENT": 103}
_UDP |= {"UDP_GRO": 104}
_UDPLITE = {"UDPLITE_SEND_CSCOV": 10, "UDPLITE_RECV_CSCOV": 11}
_RAW = {"ICMP_FILTER": 1}
_RAW6 = {"ICMPV6_FILTER": 1}
_PACKET = {"PACKET_COPY_THRESH": 7, "PACKET_AUXDATA": 8, "PACKET_ORIGDEV": 9, "PACKET_VERSION": 10}
_PACKET |= {"PACKET_RESERVE": 12, "PACKET_LOSS": 14, "PACKET_VNET_HDR": 15, "PACKET_TIMESTAMP": 17}
_PACKET |= {"PACKET_FANOUT": 18, "PACKET_QDISC_BYPASS": 20, "PACKET_IGNORE_OUTGOING": 23}
_NETLINK = {"NETLINK_PKTINFO": 3, "NETLINK_BROADCAST_ERROR": 4, "NETLINK_NO_ENOBUFS": 5, "NETLINK_LISTEN_ALL_NSID": 8}
_NETLINK |= {"NETLINK_LIST_MEMBERSHIPS": 9, "NETLINK_CAP_ACK": 10, "NETLINK_EXT_ACK": 11, "NETLINK_GET_STRICT_CHK": 12}
# Families and levels of which the standard library has no names.
_AF_NETLINK, _AF_PACKET, _SOL_ICMPV6, _SOL_RAW, _SOL_PACKET, _SOL_NETLINK = 16, 17, 58, 255, 263, 270
#: Options with a value that is not a number: their sizes in bytes.
_SIZES = {"SO_LINGER": 8, "SO_RCVTIMEO": 16, "SO_SNDTIMEO": 16, "SO_BINDTODEVICE": 16, "TCP_CONGESTION": 16}
_SIZES |= {"TCP_ULP": 16, "SO_TXTIME": 8, "IP_OPTIONS": 40, "TCP_FASTOPEN_KEY": 32, "ICMPV6_FILTER": 32}
_SIZES |= {"IPV6_HOPOPTS": 512, "IPV6_RTHDR": 512, "IPV6_DSTOPTS": 512, "NETLINK_LIST_MEMBERSHIPS": 32}
_TEXTS = ("SO_BINDTODEVICE", "TCP_CONGESTION", "TCP_ULP")
_NUMBERS = {"SO_LINGER": "=ii", "SO_RCVTIMEO": "=qq", "SO_SNDTIMEO": "=qq"}
_LISTEN, _BACKLOG_OFFSET = 10, 28  # the state, and tcpi_sacked of a listening socket, in struct tcp_info

_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6", socket.AF_UNIX: "UNIX socket"}
_PROTOCOLS = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP", socket.IPPROTO_ICMP: "ICMP"}
_DEVICE = re.compile(r"^\d+\s+(\S+)")
#: Groups that the kernel joins by itself: all hosts, all nodes, solicited nodes.
_OWN_GROUPS = ("224.0.0.1 ", "ff01::1 ", "ff02::1 ", "ff02::1:ff")


def read_socket(descriptor: int) -> Facts:
    """Read the options of a socket.

    A TCP socket that has or had a peer is only identified: its connection is closed in the dump.
    """
    with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as opened:
        protocol = opened.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        kind = opened.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        facts = {IDENTITY: _FAMILIES.get(opened.family, f"socket of family {int(opened.family)}") + f", type {kind}"}
        if opened.family in (socket.AF_INET, socket.AF_INET6):
            name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
            facts[IDENTITY] = f"{_FAMILIES[opened.family]} {name}, port {opened.getsockname()[1]}"
            if protocol == socket.IPPROTO_TCP:
                info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
                if info[0] != _LISTEN:
                    return facts
                facts["backlog"] = str(struct.unpack_from("=I", info, _BACKLOG_OFFSET)[0])
        elif opened.family == socket.AF_UNIX:
            facts["peer"] = _find_peer(opened)
            # An accepted connection only has the name of the socket that accepted it.
            if kind == socket.SOCK_DGRAM or facts["peer"] == "no":
                facts["socket name"] = _show_name(opened.getsockname())
        found = {"shut down": _find_shutdown(opened), "packet filter": _read_filter(opened)}
        return facts | {name: value for name, value in found.items() if value} | dict(_read_options(opened, protocol))


def _show_name(name: str | bytes) -> str:
    """Return the name of a UNIX socket; that of an abstract one begins with @."""
    text = os.fsencode(name).decode(errors="replace")
    return text.replace("\0", "@")


def _find_peer(opened: socket.socket) -> str:
    try:
        opened.getpeername()
    except OSError:
        return "no"
    return "yes"


def _find_shutdown(opened: socket.socket) -> str:
    """Return the directions in which a socket was shut down, as far as poll(2) shows them."""
    poller = select.poll()
    poller.register(opened, select.POLLRDHUP)
    events = dict(poller.poll(0)).get(opened.fileno(), 0)
    both, one = events & select.POLLHUP, events & select.POLLRDHUP
    return "both" if both and one else "receiving" if one else ""


def _read_filter(opened: socket.socket) -> str:
    """Return the length and a hash of a socket's packet filter; "" if it has none."""
    try:
        code = read_packet_filter(opened.fileno())
    except PermissionError:
        return "eBPF"
    except OSError:
        return ""
    return f"{len(code) // BPF_BYTES} {hashlib.sha256(code).hexdigest()[:12]}" if code else ""


def list_options() -> Iterator[str]:
    """List the names of all options that are read."""
    for table in (_SOCKET, _IP, _IPV6, _TCP, _UDP, _UDPLITE, _RAW, _RAW6, _PACKET, _NETLINK):
        yield from table


def _read_options(opened: socket.socket, protocol: int) -> Iterator[tuple[str, str]]:
    tables = [(socket.SOL_SOCKET, _SOCKET)]
    if opened.family in (socket.AF_INET, socket.AF_INET6):
        tables.append((socket.IPPROTO_IP, _IP))
    if opened.family == socket.AF_INET6:
        tables.append((socket.IPPROTO_IPV6, _IPV6))
    by_protocol = {socket.IPPROTO_TCP: _TCP, socket.IPPROTO_UDP: _UDP, socket.IPPROTO_UDPLITE: _UDPLITE}
    by_family = {_AF_PACKET: (_SOL_PACKET, _PACKET), _AF_NETLINK: (_SOL_NETLINK, _NETLINK)}
    if opened.family in by_family:
        tables.append(by_family[opened.family])
    elif protocol in by_protocol:
        tables.append((protocol, by_protocol[protocol]))
    if opened.type == socket.SOCK_RAW:
        tables += [(_SOL_RAW, _RAW), (_SOL_ICMPV6, _RAW6)]
    for level, table in tables:
        for name, number in table.items():
            try:
                yield name, _read_option(opened, level, number, name)
            except OSError:  # not of this kind of socket, or not in this kernel
                continue


def _read_option(opened: socket.socket, level: int, number: int, name: str) -> str:
    if name not in _SIZES:
        return str(opened.getsockopt(level, number))
    value = opened.getsockopt(level, number, _SIZES[name])
    if name in _TEXTS:
        return value.partition(b"\0")[0].decode(errors="replace")
    if name in _NUMBERS:
        return " ".join(map(str, struct.unpack(_NUMBERS[name], value)))
    return value.hex()


def read_groups(directory: str) -> Facts:
    """Read the multicast groups that sockets in a process's network namespace have joined.

    Args:
        directory: directory of the process in a procfs.
    """
    found: list[str] = []
    with contextlib.suppress(OSError):
        found += _parse_igmp(read_text(f"{directory}/net/igmp"))
    with contextlib.suppress(OSError):  # a kernel without IPv6
        found += _parse_igmp6(read_text(f"{directory}/net/igmp6"))
    facts = {"groups": ",".join(sorted(each for each in found if not each.startswith(_OWN_GROUPS)))}
    with contextlib.suppress(OSError):
        lines = (line.split() for line in read_text(f"{directory}/net/mcfilter").splitlines()[1:])
        facts["sources of groups"] = ",".join(sorted(" ".join(words[1:]) for words in lines))
    return facts


def _parse_igmp(text: str) -> Iterator[str]:
    device = ""
    for line in text.splitlines()[1:]:
        if match := _DEVICE.match(line):
            device = match[1]
        else:
            # The address as a number of this machine, in its byte order.
            yield f"{socket.inet_ntoa(struct.pack('=I', int(line.split()[0], 16)))} on {device}"


def _parse_igmp6(text: str) -> Iterator[str]:
    for line in text.splitlines():
        _, device, address, *_ = line.split()
        yield f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))} on {device}"
