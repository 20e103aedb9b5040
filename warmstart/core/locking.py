"""Lock files for short critical sections that several commands share; no lock file is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

MODE = 0o600


@contextlib.contextmanager
def hold_lock(path: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`; the file is made for the lock and removed with it.

    Waits for other holders, after a call of `on_wait`. The lock is the kernel's (flock(2)), so it ends with the process
    that holds it.

    Raises:
        OSError: the file cannot be made or locked.
    """
    descriptor = _lock(path, on_wait)
    try:
        yield
    finally:
        # Removed before it is unlocked: those who wait for it find another file, or none, and make a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def lock_file(descriptor: int, on_wait: Callable[[], object], *, shared: bool = False) -> None:
    """Lock an open file with flock(2), and call `on_wait` first if others hold it.

    Raises:
        OSError: the file cannot be locked.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, kind)


def remove_unless_locked(path: Path) -> None:
    """Remove a file unless another process holds a lock on it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _lock(path: Path, on_wait: Callable[[], object]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            lock_file(descriptor, on_wait)
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
