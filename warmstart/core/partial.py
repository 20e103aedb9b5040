"""Write files and directories under a temporary name, and rename them when they are complete.

They hold the memory of processes: only their owner can read them. Each is locked while it is written. So the next
command that writes to the directory recognises and removes leftovers of killed commands.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from warmstart.core.removal import remove_directory

_NAME = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.partial")


@contextlib.contextmanager
def write_beside(target: Path, *, directory: bool = False) -> Iterator[Path]:
    """Make an empty file or directory next to `target`, and yield its path.

    It is renamed to `target` at the end of the block, and removed after an error.

    Raises:
        OSError: it cannot be made or renamed.
    """
    sweep_partials(target.parent)
    partial, held = _make(target, directory)
    try:
        yield partial
        partial.rename(target)
    finally:
        _remove(partial)
        os.close(held)


@contextlib.contextmanager
def replace_file(target: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """Write a new version of a file, in a directory that no other process writes to.

    It is called `NAME.new` until it is complete, and removed after an error.

    Args:
        target: the file; it need not exist.
        mode: permissions of the new version; those of the old one if None.

    Raises:
        FileExistsError: there is a file or a link called `NAME.new` already.
    """
    new = target.with_name(f"{target.name}.new")
    with new.open("xb") as file:
        try:
            yield file
            if mode is None:
                with contextlib.suppress(FileNotFoundError):
                    mode = stat.S_IMODE(target.lstat().st_mode)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.flush()
            new.replace(target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def check_beside(target: Path) -> None:
    """Check that a file can be made next to `target`.

    Raises:
        OSError: it cannot be made.
    """
    partial, held = _make(target, directory=False)
    try:
        _remove(partial)
    finally:
        os.close(held)


def sweep_partials(directory: Path) -> None:
    """Remove half-written files of this user's killed commands from a directory."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove_unless_held(Path(entry.path))


def _make(target: Path, directory: bool) -> tuple[Path, int]:
    """Return the new path, and a descriptor that holds its lock."""
    while True:
        partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        if directory:
            partial.mkdir(0o700)
            try:
                held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # swept by another command
        else:
            held = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        if partial.exists():
            return partial, held
        # Swept by another command before it was locked.
        os.close(held)


def _remove_unless_held(partial: Path) -> None:
    # Neither a link nor a FIFO of that name is ours.
    with contextlib.suppress(OSError):
        found = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(partial)
        finally:
            os.close(found)


def _remove(partial: Path) -> None:
    if partial.is_dir() and not partial.is_symlink():
        remove_directory(partial)
    else:
        partial.unlink(missing_ok=True)
