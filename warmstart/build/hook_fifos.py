"""The FIFOs of the hooks in a container of this machine.

The container can replace them. So they are looked up below its root directory without following links, opened only if
they are FIFOs, and never waited for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from dataclasses import dataclass
from pathlib import Path

from warmstart.build.hook_channel import HookChannel
from warmstart.core.errors import AppError
from warmstart.core.linux import RESOLVE_NO_SYMLINKS, open_in_root
from warmstart.image.hooks import CHECKPOINT, HOOKS, REPLY

_LOOK_S = 0.1


@dataclass
class HookFifos(HookChannel):
    """See `HookChannel`; use `attach` before anything else, and `close`."""

    _root: int = -1
    _replies: int = -1
    _writer: int = -1

    def attach(self, proc: Path, pid: int) -> None:
        """Open the FIFO of the answers, which then keeps them until they are read.

        Args:
            proc: a procfs.
            pid: a process of the container in it.

        Raises:
            AppError: the container has no such FIFO.
        """
        self._root = os.open(proc / str(pid) / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._replies = self._open(REPLY, os.O_RDWR)

    def close(self) -> None:
        """Close all descriptors."""
        self.stop_asking()
        for descriptor in (self._root, self._replies):
            if descriptor >= 0:
                os.close(descriptor)
        self._root = self._replies = -1

    def look(self) -> bytes:
        """See `HookChannel.look`."""
        # A FIFO holds 64 KiB; a container that writes on and on is read further the next time.
        with contextlib.suppress(BlockingIOError):
            return os.read(self._replies, 1 << 16)
        return b""

    def ask(self) -> None:
        """See `HookChannel.ask`: opening the FIFO at which the agents wait wakes them.

        Raises:
            AppError: the container has no such FIFO.
        """
        if self._writer < 0:
            self._writer = self._open_writer()
        select.select([self._replies], [], [], _LOOK_S if self._writer >= 0 else _LOOK_S / 10)

    def stop_asking(self) -> None:
        """See `HookChannel.stop_asking`."""
        if self._writer >= 0:
            os.close(self._writer)
        self._writer = -1

    def _open_writer(self) -> int:
        """Open the FIFO at which the agents wait; -1 if none is there yet."""
        try:
            return self._open(CHECKPOINT, os.O_WRONLY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return -1

    def _open(self, name: str, flags: int) -> int:
        try:
            pinned = open_in_root(self._root, f"/{HOOKS}/{name}", os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS)
        except OSError as error:
            raise AppError(f"cannot open /{HOOKS}/{name} of the container: {error.strerror}") from error
        try:
            if not stat.S_ISFIFO(os.fstat(pinned).st_mode):
                raise AppError(f"/{HOOKS}/{name} of the container is not the FIFO of the build any more")
            return os.open(f"/proc/self/fd/{pinned}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(pinned)
