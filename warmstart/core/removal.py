"""Remove directory trees of any depth.

A container can nest directories deeper than Python's recursion limit, where `shutil.rmtree` fails, and deeper than
there are descriptors. And rm(1) cannot be started where a process may not fork, as in a PID namespace that has ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.linux import open_on_mount

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class _Level:
    """A directory on the way down: its name in its parent, its identity, and the subdirectories left to remove."""

    name: str
    status: os.stat_result
    pending: list[str]


def remove_directory(directory: Path) -> bool:
    """Remove a directory as far as possible, and tell whether nothing is left of it.

    Links are removed, not followed. Directories mounted below stay with all their content: they may be the host's.
    """
    with contextlib.suppress(OSError):
        _remove_content(os.open(directory, _FLAGS))
        directory.rmdir()
    return not directory.exists()


def _remove_content(current: int) -> None:
    """Remove everything below an open directory as far as possible, and close it."""
    levels = [_enter("", current)]
    try:
        while True:
            level = levels[-1]
            if level.pending:
                name = level.pending.pop()
                with contextlib.suppress(OSError):
                    inner = _open(current, name)
                    os.close(current)
                    current = inner
                    levels.append(_enter(name, current))
                continue
            del levels[-1]
            if not levels:
                return
            outer = os.open("..", _FLAGS, dir_fd=current)
            os.close(current)
            current = outer
            if not os.path.samestat(os.fstat(current), levels[-1].status):
                return  # someone moved it
            with contextlib.suppress(OSError):
                os.rmdir(level.name, dir_fd=current)
    finally:
        os.close(current)


def _open(directory: int, name: str) -> int:
    """Open a subdirectory; raise OSError if it is mounted.

    Where the kernel has no openat2, or a sandbox refuses it, a bind mount of the same file system is not recognised.
    """
    if sys.platform == "linux":
        try:
            return open_on_mount(directory, name, _FLAGS)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
    inner = os.open(name, _FLAGS, dir_fd=directory)
    if os.fstat(inner).st_dev != os.fstat(directory).st_dev:
        os.close(inner)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return inner


def _enter(name: str, descriptor: int) -> _Level:
    """Remove everything but directories from an open directory."""
    pending = []
    for inner in os.listdir(descriptor):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.stat(inner, dir_fd=descriptor, follow_symlinks=False).st_mode):
                pending.append(inner)
            else:
                os.unlink(inner, dir_fd=descriptor)
    return _Level(name, os.fstat(descriptor), pending)
