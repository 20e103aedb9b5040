"""The few Linux calls that Python 3.11's standard library lacks, by way of the C library.

Each raises OSError with the kernel's errno. Sources: the section 2 manual page of each call.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

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
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def _raise_if(result: int, path: str | None = None, doing: str = "") -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, doing + os.strerror(number), path)


def unshare(flags: int) -> None:
    """Move the calling thread (its future children, for CLONE_NEWPID) into new namespaces."""
    _raise_if(_libc.unshare(flags), doing="unshare: ")


def setns(descriptor: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace that `descriptor` refers to."""
    _raise_if(_libc.setns(descriptor, flags))


def mount(source: str | Path, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` on `target`; `kind` is the filesystem type, empty where flags make it irrelevant."""
    words = (os.fsencode(source), os.fsencode(target), kind.encode())
    _raise_if(_libc.mount(*words, flags, options.encode()), str(target), f"mount {kind or source}: ")


def unmount(target: Path, flags: int = 0) -> None:
    """Unmount the top mount of `target`."""
    _raise_if(_libc.umount2(os.fsencode(target), flags), str(target))


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make `new_root` the root mount of this mount namespace, and hang the old one on `put_old`."""
    number = SYS_PIVOT_ROOT[os.uname().machine]
    _raise_if(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), str(new_root), "pivot_root: ")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int, resolve: int = 0) -> int:
    """Open a path as if the directory `root` were the root directory, which no link leads out of (Linux 5.6).

    Args:
        root: a descriptor.
        path: relative to it, or absolute in it.
        flags: as for open(2); O_CLOEXEC is added.
        resolve: more of the RESOLVE_ flags.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve)
    result = _libc.syscall(SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    _raise_if(result, path)
    return int(result)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process `number` when the thread that made it ends."""
    _raise_if(_libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0))
