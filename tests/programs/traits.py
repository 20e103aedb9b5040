"""A service that sets what a process can set of its own in the kernel, each in another way than it is by default."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

PORT = 8080
libc = ctypes.CDLL(None, use_errno=True)
kept: list[object] = []
SOCKET, IP, TCP, UDP, IPV6 = socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 41
# Level, number and value of the options; the numbers are those of the kernel's headers.
TCP_OPTIONS = [
    *[(SOCKET, 7, 100000), (SOCKET, 8, 100000), (SOCKET, 9, 1), (SOCKET, 10, 1), (SOCKET, 12, 5), (SOCKET, 15, 1)],
    *[(SOCKET, 18, 7), (SOCKET, 47, 10**6), (SOCKET, 60, 1), (IP, 1, 0x10), (IP, 21, 3), (IP, 24, 1), (TCP, 1, 1)],
    *[(TCP, 4, 77), (TCP, 5, 11), (TCP, 6, 4), (TCP, 7, 3), (TCP, 8, 30), (TCP, 9, 3), (TCP, 16, 1), (TCP, 18, 5000)],
    *[(TCP, 23, 64), (TCP, 25, 16384), (TCP, 27, 1), (TCP, 34, 1), (TCP, 36, 1)],
]
UDP_OPTIONS = [
    *[(SOCKET, 6, 1), (SOCKET, 8, 200000), (SOCKET, 11, 1), (SOCKET, 29, 1), (SOCKET, 40, 1), (SOCKET, 45, 1)],
    *[(IP, 2, 33), (IP, 6, 1), (IP, 7, 1), (IP, 8, 1), (IP, 10, 2), (IP, 11, 1), (IP, 12, 1), (IP, 13, 1), (IP, 15, 1)],
    *[(IP, 18, 1), (IP, 23, 1), (IP, 25, 1), (IP, 26, 1), (IP, 33, 9), (IP, 34, 0), (UDP, 104, 1)],
]
IPV6_OPTIONS = [
    *[(SOCKET, 5, 1), (SOCKET, 35, 1), (SOCKET, 37, 16), (IPV6, 16, 44), (IPV6, 18, 5), (IPV6, 19, 0), (IPV6, 23, 2)],
    *[(IPV6, 25, 1), (IPV6, 26, 1), (IPV6, 31, 1), (IPV6, 49, 1), (IPV6, 51, 1), (IPV6, 53, 1), (IPV6, 56, 1)],
    *[(IPV6, 58, 1), (IPV6, 60, 1), (IPV6, 62, 1), (IPV6, 66, 1), (IPV6, 67, 8), (IPV6, 70, 0), (IPV6, 72, 1)],
    *[(IPV6, 73, 3), (IPV6, 77, 1), (IPV6, 78, 1), (UDP, 101, 1), (UDP, 102, 1)],
]
# Of these, a loss changes what the application does.
DECISIVE = [(UDP, 103, 1200), (IP, 20, 1)]
DECISIVE_IPV6 = [(IPV6, 74, 1)]


class SignalEvent(ctypes.Structure):
    """Struct sigevent."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_char * 48),
    )


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def make_timers() -> None:
    timer = check(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC))
    check(libc.timerfd_settime(timer, 0, struct.pack("qqqq", 0, 5_000_000, 0, 5_000_000), None))

    def tick() -> None:
        while True:
            os.read(timer, 8)

    threading.Thread(target=tick, daemon=True).start()
    posix, event = ctypes.c_void_p(), SignalEvent(None, signal.SIGUSR1, 0)
    check(libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(posix)))
    check(libc.timer_settime(posix, 0, struct.pack("qqqq", 100, 0, 100, 0), None))


def make_sockets(*, decisive: bool) -> None:
    tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    six, local = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    options = [
        (tcp, TCP_OPTIONS),
        (udp, UDP_OPTIONS + DECISIVE * decisive),
        (six, IPV6_OPTIONS + DECISIVE_IPV6 * decisive),
    ]
    for each, values in options:
        for value in values:
            each.setsockopt(*value)
    udp.setsockopt(SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 3, 0))
    udp.setsockopt(SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 4, 0))
    tcp.setsockopt(SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
    tcp.setsockopt(TCP, 13, b"reno")  # TCP_CONGESTION
    local.setsockopt(SOCKET, socket.SO_PASSCRED, 1)
    tcp.bind(("", 0))
    tcp.listen(16)
    udp.bind(("", 0))
    six.bind(("::", 0))
    if decisive:
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        member.bind(("", 0))
        group = socket.inet_aton("239.7.7.7") + socket.inet_aton("127.0.0.1")
        member.setsockopt(IP, socket.IP_ADD_MEMBERSHIP, group)
        kept.append(member)
    kept.extend((tcp, udp, six, local))


def make_descriptors(*, decisive: bool) -> None:
    if decisive:
        check(libc.eventfd(3, 1))  # EFD_SEMAPHORE
    for name, lock in (("flock", fcntl.flock), ("posix", fcntl.lockf)):
        file = Path(f"/tmp/traits.{os.getpid()}.{name}").open("w")  # noqa: SIM115
        lock(file, fcntl.LOCK_EX)
        kept.append(file)
    signals = (ctypes.c_uint64 * 16)(1 << (signal.SIGUSR1 - 1))
    check(libc.signalfd(-1, ctypes.byref(signals), os.O_CLOEXEC))
    memory = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(memory, 1033, 15)  # F_ADD_SEALS
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 1 << 20)  # F_SETPIPE_SZ
    fcntl.fcntl(reader, 10, signal.SIGUSR1)  # F_SETSIG
    os.set_blocking(reader, False)
    watcher = select.epoll()
    watcher.register(reader, select.EPOLLIN)
    kept.append(watcher)


def make_mappings() -> None:
    for advice in (10, 12, 14, 15, 16, 18):  # DONTFORK, MERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, WIPEONFORK
        mapping = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        libc.madvise(ctypes.c_void_p(find_address(mapping)), 1 << 20, advice)
        kept.append(mapping)
    locked = mmap.mmap(-1, 4096)
    check(libc.mlock(ctypes.c_void_p(find_address(locked)), 4096))
    kept.append(locked)


def find_address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def set_up_process() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    libc.syscall({"x86_64": 251, "aarch64": 30}[os.uname().machine], 1, 0, (2 << 13) | 7)  # ioprio_set
    check(libc.prctl(41, 1, 0, 0, 0))  # PR_SET_THP_DISABLE
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.chdir("/tmp")

    is_set = threading.Event()

    def stay() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        check(libc.prctl(29, 50_000_000, 0, 0, 0))  # PR_SET_TIMERSLACK
        check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        is_set.set()
        while True:
            time.sleep(1)

    threading.Thread(target=stay, daemon=True).start()
    is_set.wait()
    os.setpriority(os.PRIO_PROCESS, 0, 7)  # of this thread alone, also if the tests run with another


class Handler(BaseHTTPRequestHandler):
    """Answers each request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    decisive = "decisive" in sys.argv
    set_up_process()
    make_timers()
    make_sockets(decisive=decisive)
    make_descriptors(decisive=decisive)
    make_mappings()
    print("ready", flush=True)
    if "serve" in sys.argv:
        HTTPServer(("", PORT), Handler).serve_forever()
    time.sleep(600)


if __name__ == "__main__":
    main()
