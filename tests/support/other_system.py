"""Simulate a system other than Linux in this process: `pytest -p support.other_system`, or `simulate()`.

Names that Python has on Linux only are gone, and so is /proc. The kernel, the C library and the programs remain those
of this machine.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import types

SYSTEM = "darwin"
LINUX_ONLY = {
    os: """
        CLONE_NEWNET O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_RSYNC O_TMPFILE P_PIDFD copy_file_range eventfd
        fdatasync getrandom getresgid getresuid getxattr listxattr memfd_create pidfd_open pipe2 posix_fadvise
        posix_fallocate removexattr sched_getaffinity sched_setaffinity setns setresgid setresuid setxattr splice
        unshare
    """,
    signal: "SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT pidfd_send_signal sigtimedwait sigwaitinfo",
    select: "epoll",
    socket: "AF_ALG AF_NETLINK AF_PACKET AF_VSOCK SO_BINDTODEVICE SO_DOMAIN SO_PEERCRED SO_PROTOCOL SOCK_CLOEXEC",
    resource: "prlimit",
}


def simulate() -> None:
    """Make this process look as on macOS; modules that are imported from now on see no Linux."""
    for module, names in LINUX_ONLY.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    sysconfig.get_config_vars()  # reads a file whose name has the system in it, once
    sys.platform = SYSTEM
    # Modules that found these names when they were imported.
    tempfile._O_TMPFILE_WORKS = False
    shutil._copyxattr = lambda *_, **_options: None
    # urllib asks macOS for its proxies with this module.
    sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict)
    os.sendfile = _refuse_sendfile
    sys.addaudithook(_hide_proc)


def _refuse_sendfile(*_: object) -> int:
    """Do as macOS, whose sendfile(2) writes to sockets only."""
    raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))


def _hide_proc(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if path == "/proc" or path.startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def pytest_configure() -> None:
    simulate()
