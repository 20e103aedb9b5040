"""Linux system calls that the standard library of Python 3.11 lacks, made through the C library.

Each raises OSError with the kernel's errno. Sources: the section 2 manual page of each call.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from warmstart.core.errors import HostError

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 0x2

PR_SET_PDEATHSIG = 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

SYS_OPENAT2 = 437  # of all architectures
SYS_PIDFD_GETFD = 438  # of all architectures
SO_GET_FILTER, BPF_MAXINSNS, BPF_BYTES = 26, 4096, 8
SYS_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
IOPRIO_WHO_PROCESS = 1
SYS_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10


@cache
def _load_libc() -> ctypes.CDLL:
    """Load the C library on first use: modules that need it only on Linux can be imported anywhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    )
    return libc


def find_system() -> str:
    """Return the name of this machine's operating system."""
    return {"linux": "Linux", "darwin": "macOS"}.get(sys.platform, sys.platform)


def require_linux(purpose: str) -> None:
    """Check that this machine runs Linux.

    Args:
        purpose: the action that needs Linux, for the message.

    Raises:
        HostError: it runs another system.
    """
    if sys.platform != "linux":
        raise HostError(
            f"cannot {purpose}: this needs Linux, and this machine runs {find_system()}",
            hint="run the command on a Linux machine",
        )


def _raise_if_failed(result: int, path: str | None = None, prefix: str = "") -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, prefix + os.strerror(number), path)


def unshare(flags: int) -> None:
    """Move the calling thread (its future children, for CLONE_NEWPID) into new namespaces."""
    _raise_if_failed(_load_libc().unshare(flags), prefix="unshare: ")


def enter_namespace(path: Path, kind: int = 0) -> None:
    """Move the calling thread into the namespace that the file `path` stands for.

    Args:
        path: such as /proc/PID/ns/net.
        kind: CLONE_ flag of the expected kind of namespace; 0 for any.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # os.setns exists from Python 3.12 on.
        _raise_if_failed(_load_libc().setns(descriptor, kind), str(path))
    finally:
        os.close(descriptor)


def mount(source: str | Path, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` on `target`; `kind` is the filesystem type, empty if the flags make it irrelevant."""
    words = (os.fsencode(source), os.fsencode(target), kind.encode())
    result = _load_libc().mount(*words, flags, options.encode())
    _raise_if_failed(result, str(target), f"mount {kind or source}: ")


def unmount(target: Path, flags: int = 0) -> None:
    """Remove the topmost mount from `target`."""
    _raise_if_failed(_load_libc().umount2(os.fsencode(target), flags), str(target))


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make `new_root` the root mount of this mount namespace, and move the old one to `put_old`."""
    number = SYS_PIVOT_ROOT[os.uname().machine]
    result = _load_libc().syscall(number, os.fsencode(new_root), os.fsencode(put_old))
    _raise_if_failed(result, str(new_root), "pivot_root: ")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int, resolve: int = 0) -> int:
    """Open a path with the directory `root` as the root directory; no link leads out of it (Linux 5.6).

    Args:
        root: descriptor of the directory.
        path: path in that directory, absolute or relative to it.
        flags: flags for open(2); O_CLOEXEC is added.
        resolve: additional RESOLVE_ flags.
    """
    return _open(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)


def open_on_mount(directory: int, path: str, flags: int) -> int:
    """Open a path below a directory; raise EXDEV if another mount is on the way, also a bind mount (Linux 5.6).

    Args:
        directory: descriptor of the directory.
        path: path relative to it.
        flags: flags for open(2); O_CLOEXEC is added.
    """
    return _open(directory, path, flags, RESOLVE_NO_XDEV)


def _open(directory: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    result = _load_libc().syscall(SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    _raise_if_failed(result, path)
    return int(result)


def open_by_handle(directory: int, handle_type: int, handle: bytes, flags: int) -> int:
    """Open a file by its file handle, see open_by_handle_at(2); needs CAP_DAC_READ_SEARCH.

    Args:
        directory: descriptor of a directory on the filesystem of the file.
        handle_type: type of the handle.
        handle: the handle itself.
        flags: flags for open(2); O_CLOEXEC is added.
    """
    packed = struct.pack("=II", len(handle), handle_type) + handle
    result = _load_libc().open_by_handle_at(directory, packed, flags | os.O_CLOEXEC)
    _raise_if_failed(result)
    return int(result)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process signal `number` when the thread that created it ends."""
    _raise_if_failed(_load_libc().prctl(PR_SET_PDEATHSIG, number, 0, 0, 0))


def copy_descriptor(pidfd: int, number: int) -> int:
    """Return a copy of a descriptor of another process; see pidfd_getfd(2) (Linux 5.6).

    Args:
        pidfd: refers to the process.
        number: the descriptor there.
    """
    result = _load_libc().syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    _raise_if_failed(result, prefix="pidfd_getfd: ")
    return int(result)


def read_packet_filter(descriptor: int) -> bytes:
    """Return the instructions of a socket's packet filter; none if it has none; see SO_GET_FILTER of Linux.

    The length of this option counts instructions: Python would give the kernel too small a buffer.

    Raises:
        PermissionError: it is a program of eBPF.
    """
    words, length = (descriptor, socket.SOL_SOCKET, SO_GET_FILTER), ctypes.c_uint32(0)
    _raise_if_failed(_load_libc().getsockopt(*words, None, ctypes.byref(length)), prefix="getsockopt: ")
    if not length.value:
        return b""
    buffer, length = ctypes.create_string_buffer(BPF_MAXINSNS * BPF_BYTES), ctypes.c_uint32(BPF_MAXINSNS)
    _raise_if_failed(_load_libc().getsockopt(*words, buffer, ctypes.byref(length)), prefix="getsockopt: ")
    return buffer.raw[: length.value * BPF_BYTES]


def read_io_priority(pid: int) -> int:
    """Return the I/O priority of a process, its class in the bits from 13 on; see ioprio_get(2)."""
    result = _load_libc().syscall(SYS_IOPRIO_GET[os.uname().machine], IOPRIO_WHO_PROCESS, pid)
    _raise_if_failed(result, prefix="ioprio_get: ")
    return int(result)


@dataclass(frozen=True)
class Scheduling:
    """How a thread is scheduled, beyond its policy; see sched_getattr(2).

    Attributes:
        flags: such as SCHED_FLAG_RESET_ON_FORK.
        slice_ns: the time that it runs without interruption, or the budget of a thread with deadlines.
        deadline_ns: deadline and period of such a thread.
        clamp: lowest and highest utilization that it claims to have.
    """

    flags: int
    slice_ns: int
    deadline_ns: tuple[int, int]
    clamp: tuple[int, int]


def read_scheduling(number: int) -> Scheduling:
    """Return how a thread is scheduled."""
    buffer = ctypes.create_string_buffer(56)
    result = _load_libc().syscall(SYS_SCHED_GETATTR[os.uname().machine], number, buffer, len(buffer), 0)
    _raise_if_failed(result, prefix="sched_getattr: ")
    _, _, flags, _, _, runtime, deadline, period, lowest, highest = struct.unpack("=IIQiIQQQII", buffer.raw)
    return Scheduling(flags, runtime, (deadline, period), (lowest, highest))
