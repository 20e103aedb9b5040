"""Lock files for short critical sections that several commands share; no lock file is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

MODE = 0o600


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; the file is made for the lock and removed with it.

    Waits for other holders. The lock is the kernel's (flock(2)), so it ends with the process that holds it.

    Raises:
        OSError: the file cannot be made or locked.
    """
    descriptor = _lock(path)
    try:
        yield
    finally:
        # Removed before it is unlocked: those who wait for it find another file, or none, and make a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def remove_unless_locked(path: Path) -> None:
    """Remove a file unless another process holds a lock on it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_same(descriptor: int, path: Path) -> bool:
    """Tell whether an open file still has that name; another process may have removed it before it was locked."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False
