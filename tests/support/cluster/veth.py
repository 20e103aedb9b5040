"""Create a pair of connected network devices in two network namespaces.

`ip` would have to see both namespaces, but sessions do not see those of other sessions.
Structures: netlink(7), rtnetlink(7), linux/if_link.h, linux/veth.h.
"""

from __future__ import annotations

import os
import socket
import struct

RTM_NEWLINK = 16
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_PID = 3, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
NETLINK_ROUTE = 0
# An empty struct ifinfomsg.
ANY_LINK = bytes(16)


def add_veth(name: str, peer: str, pid: int) -> None:
    """Create the device `name` in the caller's network namespace, and its `peer` in that of a process.

    Raises:
        OSError: the kernel reported an error.
    """
    other = ANY_LINK + _attribute(IFLA_IFNAME, peer.encode()) + _attribute(IFLA_NET_NS_PID, struct.pack("=I", pid))
    data = _attribute(IFLA_INFO_DATA, _attribute(VETH_INFO_PEER, other))
    link = _attribute(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, b"veth") + data)
    _request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ANY_LINK + _attribute(IFLA_IFNAME, name.encode()) + link)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = struct.calcsize("=HH") + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def _request(kind: int, flags: int, body: bytes) -> None:
    header = struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as netlink:
        netlink.sendall(header + body)
        # NLMSG_ERROR: a header, and a negative errno or 0.
        (number,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if number:
        raise OSError(-number, os.strerror(-number))
