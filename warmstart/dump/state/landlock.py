"""Find threads that Landlock rules bind.

The kernel shows them nowhere, so a thread is asked to look into a process outside its domain (`outsider.py`). That
works with the numbers and layouts of x86-64 alone, and not where something else may forbid it: another user namespace,
or a security module with a profile of its own for the container.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from warmstart.core.errors import WarmstartError
from warmstart.core.process import answering
from warmstart.core.ptrace import StoppedThread, is_supported
from warmstart.dump.state import outsider

LIMIT_S = 5.0
_GET_ROBUST_LIST = 274


@contextlib.contextmanager
def running_outsiders(own_pid: int | None, pairs: Sequence[str]) -> Iterator[Callable[[], Mapping[str, int]]]:
    """Have processes in a container that no Landlock rules bind, for the length of a `with` block.

    Args:
        own_pid: a process of the container in this process's PID namespace; None for no outsiders.
        pairs: USER:GROUP of the threads that are compared with them.

    Yields:
        A function that waits for them, and returns their numbers in the container by pair; empty if the container has
        ended, or rules could not be told from other restrictions.
    """
    if not own_pid or not pairs or not is_supported() or not _is_comparable(own_pid):
        yield dict
        return
    command = [sys.executable, "-I", "-S", outsider.__file__, str(own_pid), *pairs]
    with contextlib.ExitStack() as ended, ThreadPoolExecutor(max_workers=1) as starter:
        lines = starter.submit(lambda: ended.enter_context(answering(command, timeout_s=LIMIT_S, env={})))

        def find() -> Mapping[str, int]:
            try:
                return {pair: int(number) for pair, number in map(str.split, lines.result())}
            except WarmstartError:  # the container has ended, or the kernel refuses
                return {}

        yield find


def is_kept_out(stopped: StoppedThread, page: int, number: int) -> bool:
    """Whether a stopped thread may not look into an outsider.

    Args:
        stopped: the thread.
        page: address of a page of its memory.
        number: the outsider, in the container.
    """
    try:
        stopped.call(_GET_ROBUST_LIST, number, page, page + 8)
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def _is_comparable(own_pid: int) -> bool:
    """Whether nothing but Landlock tells a process of the container from one of this machine."""
    try:
        same_users = os.readlink(f"/proc/{own_pid}/ns/user") == os.readlink("/proc/self/ns/user")  # noqa: PTH115
    except OSError:
        return False
    return same_users and _read_label(f"/proc/{own_pid}") == _read_label("/proc/self")


def _read_label(directory: str) -> bytes:
    with contextlib.suppress(OSError):  # no security module has one
        return Path(directory, "attr/current").read_bytes().strip(b"\0\n")
    return b""
