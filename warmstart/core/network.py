"""Connect from another network namespace, to reach pods that are invisible from ours."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from warmstart.core import linux

T = TypeVar("T")

# include/uapi/linux/{netlink,rtnetlink,if_addr}.h
_RTM_NEWADDR = 20
_NLM_F_CREATE_AND_ACK = 0x605
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def call_in_network(namespace: Path, call: Callable[[], T]) -> T:
    """Make a call in another network namespace.

    A socket made there stays there, whoever uses it later. The main thread calls on a thread of its own: Ctrl-C
    interrupts it anywhere, and it might not come back. Others go there themselves, which takes a third of the time.
    """
    if threading.current_thread() is threading.main_thread():
        return _call_apart(namespace, call)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.enter_namespace(namespace, linux.CLONE_NEWNET)
        try:
            return call()
        finally:
            linux.enter_namespace(Path(f"/proc/self/fd/{own}"), linux.CLONE_NEWNET)
    finally:
        os.close(own)


def _call_apart(namespace: Path, call: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            linux.enter_namespace(namespace, linux.CLONE_NEWNET)
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def add_address_in(namespace: Path, interface: str, address: str) -> None:
    """Add an IPv4 address to an interface in another network namespace, unless it has it.

    Formats: netlink(7), rtnetlink(7).

    Raises:
        OSError: the kernel refused.
    """
    packed = socket.inet_aton(address)
    attributes = b"".join(struct.pack("=HH4s", 8, kind, packed) for kind in (_IFA_ADDRESS, _IFA_LOCAL))

    def add() -> None:
        index = socket.if_nametoindex(interface)
        message = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index) + attributes
        header = struct.pack("=IHHII", 16 + len(message), _RTM_NEWADDR, _NLM_F_CREATE_AND_ACK, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.send(header + message)
            (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        if error not in (0, -errno.EEXIST):
            raise OSError(-error, os.strerror(-error))

    call_in_network(namespace, add)


def connect_in(namespace: Path, address: tuple[str, int], timeout_s: float) -> socket.socket:
    """Open a TCP connection from another network namespace; errors as `socket.create_connection`."""
    return call_in_network(namespace, lambda: socket.create_connection(address, timeout_s))
