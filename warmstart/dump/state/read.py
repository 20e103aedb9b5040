"""Take a snapshot of the kernel state of a running container, from outside and without stopping it.

All that /proc tells is read below a given procfs. Options of sockets, sizes of pipes and seals of memfds are read from
copies of the descriptors (pidfd_getfd(2)); a sandbox that refuses this call leaves them out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from warmstart.dump.proc.container import GONE, Process, read_namespace, read_tree
from warmstart.dump.state.descriptors import read_descriptor
from warmstart.dump.state.model import (
    NETWORK,
    Facts,
    KernelState,
    name_descriptor,
    name_process,
    name_thread,
)
from warmstart.dump.state.sockets import read_groups
from warmstart.dump.state.tasks import read_link, read_priority, read_process, read_status, read_thread

#: More subjects are not read: an application with a million descriptors must not hold up a build.
MAX_SUBJECTS = 5000
# A process that ends meanwhile: without its files, with empty files, or without memory.
_ENDED = (*GONE, IndexError, KeyError, ValueError)
# Also a process that has more privileges than this one, of which only the status can be read.
_UNREADABLE = (OSError, IndexError, KeyError, ValueError)


def read_state(proc: Path, first_pid: int) -> KernelState:
    """Read the kernel state of a process and its descendants.

    Args:
        proc: a procfs.
        first_pid: the process in that procfs.

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
    """
    tree = read_tree(proc, first_pid)
    own_pids = find_own_pids(proc, tree)
    reader = _Reader(str(proc), _read_root(proc, first_pid), len(tree[0].pids) - 1)
    subjects: dict[str, Facts] = {}
    with contextlib.suppress(*_ENDED):
        subjects[NETWORK] = read_groups(f"{proc}/{first_pid}")
    for process in tree:
        for subject, facts in reader.read(process, own_pids.get(process.pid)) if not process.is_zombie else ():
            if len(subjects) >= MAX_SUBJECTS:
                return KernelState(subjects)
            subjects[subject] = facts
    return KernelState(subjects)


def _read_root(proc: Path, pid: int) -> str:
    with contextlib.suppress(OSError):
        return read_link(f"{proc}/{pid}/root")
    return "/"


@dataclass(frozen=True)
class _Reader:
    """Reads processes.

    Attributes:
        proc: the procfs.
        root: root directory of the container's first process.
        level: depth of the container's PID namespace below that of the procfs.
    """

    proc: str
    root: str
    level: int

    def read(self, process: Process, own_pid: int | None) -> Iterator[tuple[str, Facts]]:
        """Yield all subjects of a process. What ends meanwhile is left out.

        Args:
            process: the process.
            own_pid: its number in this process's PID namespace; None if unknown.
        """
        directory, pid = f"{self.proc}/{process.pid}", process.pids[self.level]
        with contextlib.suppress(*_UNREADABLE):
            priority = read_priority(own_pid) if own_pid else {}
            yield name_process(pid), {**read_process(self.proc, process.pid, self.root), **priority}
        for name in _list(f"{directory}/task"):
            with contextlib.suppress(*_ENDED):
                number, facts = read_thread(self.proc, process.pid, int(name), self.level)
                yield name_thread(number), facts
        with _open_pidfd(own_pid) as pidfd:
            for name in _list(f"{directory}/fd"):
                with contextlib.suppress(*_UNREADABLE):
                    yield name_descriptor(pid, int(name)), read_descriptor(directory, int(name), pidfd)


@contextlib.contextmanager
def _open_pidfd(own_pid: int | None) -> Iterator[int | None]:
    pidfd = None
    if own_pid:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(own_pid)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  (names only)
    except OSError:
        return []


def find_own_pids(proc: Path, tree: tuple[Process, ...]) -> Mapping[int, int]:
    """Find the numbers of processes in this process's PID namespace: system calls take those, and no others.

    A PID namespace, and the number in it, are of one process alone.

    Args:
        proc: a procfs.
        tree: processes with their numbers in it.
    """
    if proc == Path("/proc"):
        return {process.pid: process.pid for process in tree}
    wanted: dict[tuple[str, int], int] = {}
    for process in tree:
        with contextlib.suppress(OSError):
            wanted[read_namespace(proc, process.pid, "pid"), process.pids[-1]] = process.pid
    namespaces = {namespace for namespace, _ in wanted}
    found: dict[int, int] = {}
    for name in filter(str.isdigit, _list("/proc")):
        with contextlib.suppress(*_ENDED, PermissionError):
            namespace = read_namespace(Path("/proc"), int(name), "pid")
            if namespace in namespaces:
                key = namespace, int(read_status(f"/proc/{name}")["NSpid"].split()[-1])
                found |= {wanted[key]: int(name)} if key in wanted else {}
    return found
