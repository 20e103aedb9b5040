"""Take a snapshot of the kernel state of a running container, from outside and without stopping it.

All that /proc tells is read below a given procfs. Options of sockets, sizes of pipes and seals of memfds are read from
copies of the descriptors (pidfd_getfd(2)); a sandbox that refuses this call leaves them out. The rest only a thread
itself can read (`asked.py`), or a thread in the same IPC namespace (`ipc.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmstart.dump.proc.container import GONE, Process, closing_descriptor, read_namespace, read_namespaces, read_tree
from warmstart.dump.proc.status import read_status
from warmstart.dump.state.asked import AskedProcess, AskedThread, ask
from warmstart.dump.state.descriptors import read_descriptor
from warmstart.dump.state.ipc import read_ipc
from warmstart.dump.state.landlock import running_outsiders
from warmstart.dump.state.model import (
    IPC,
    MAX_SUBJECTS,
    NETWORK,
    Facts,
    KernelState,
    name_descriptor,
    name_process,
    name_thread,
)
from warmstart.dump.state.sockets import read_groups
from warmstart.dump.state.tasks import read_attributes, read_link, read_priority, read_process, read_thread

CAP_SYS_ADMIN = 1 << 21
# A process that ends meanwhile: without its files, with empty files, or without memory.
_ENDED = (*GONE, IndexError, KeyError, ValueError)
# Also a process that has more privileges than this one, of which only the status can be read.
_UNREADABLE = (OSError, IndexError, KeyError, ValueError)
_NOTHING = KernelState()


def read_state(
    proc: Path, first_pid: int, *, before: KernelState = _NOTHING, with_restrictions: bool = False
) -> KernelState:
    """Read the kernel state of a process and its descendants.

    Args:
        proc: a procfs.
        first_pid: the process in that procfs.
        before: an earlier state, if only the differences from it matter. Of threads that had the same settings in it,
            one is asked for them.
        with_restrictions: whether to find out which threads Landlock rules bind, too (`landlock.py`).

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
    """
    tree = read_tree(proc, first_pid)
    own_pids = find_own_pids(proc, tree)
    reader = _Reader(str(proc), tree, own_pids, _read_root(proc, first_pid))
    living = [process for process in tree if not process.is_zombie]
    subjects: dict[str, Facts] = {}
    asked = [found for process in living if (found := reader.read_process(process, subjects)).threads]
    pairs = dict.fromkeys(each.owner for process in asked for each in process.threads if each.owner)
    own_pid = own_pids.get(first_pid) if with_restrictions else None
    with running_outsiders(own_pid, list(pairs)) as outsiders:
        # Meanwhile they start.
        for process in living:
            reader.read_descriptors(process, subjects)
        subjects |= dict(_read_shared(proc, first_pid, own_pids.get(first_pid)))
        for subject, facts in ask(asked, before, outsiders()).items():
            subjects[subject] = {**subjects[subject], **facts}
    return KernelState(subjects)


def _read_root(proc: Path, pid: int) -> str:
    with contextlib.suppress(OSError):
        return read_link(f"{proc}/{pid}/root")
    return "/"


def _read_shared(proc: Path, first_pid: int, own_pid: int | None) -> Iterator[tuple[str, Facts]]:
    """Yield the subjects that all processes share."""
    with contextlib.suppress(*_ENDED):
        yield NETWORK, read_groups(f"{proc}/{first_pid}")
    if own_pid:
        with contextlib.suppress(*_UNREADABLE):
            yield IPC, read_ipc(proc, first_pid, own_pid)


@dataclass(frozen=True)
class _Reader:
    """Reads processes, below this process's own /proc if they are in it: system calls take the numbers there.

    Attributes:
        proc: the procfs.
        tree: all processes.
        own_pids: their numbers in this process's PID namespace, as far as they are known.
        root: root directory of the container's first process.
    """

    proc: str
    tree: Sequence[Process]
    own_pids: Mapping[int, int]
    root: str

    def read_process(self, process: Process, subjects: dict[str, Facts]) -> AskedProcess:
        """Add the facts about a process and its threads, and return those of them that can be asked for more.

        What ends meanwhile is left out.
        """
        own_pid, level = self.own_pids.get(process.pid), len(self.tree[0].pids) - 1
        subject, facts = name_process(process.pids[level]), {}
        with contextlib.suppress(*_UNREADABLE):
            priority = read_priority(own_pid) if own_pid else {}
            facts = {**read_process(self._find(process), self.root), **self._read_place(process, level), **priority}
            _add(subjects, subject, facts)
        threads = list(self._read_threads(process, len(process.pids) - level, subjects))
        threads.sort(key=lambda each: (each.number != own_pid, each.number))
        signals = int(facts.get("SigCgt", "0"), 16) | int(facts.get("SigIgn", "0"), 16)
        timers = [int(each.split()[0]) for each in facts.get("timers", "").split(",") if each]
        numbers = [each + 1 for each in range(signals.bit_length()) if signals >> each & 1]
        return AskedProcess(subject, threads if subject in subjects else [], numbers, timers)

    def _find(self, process: Process) -> str:
        own_pid = self.own_pids.get(process.pid)
        return f"/proc/{own_pid}" if own_pid else f"{self.proc}/{process.pid}"

    def _read_threads(self, process: Process, depth: int, subjects: dict[str, Facts]) -> Iterator[AskedThread]:
        is_own = process.pid in self.own_pids
        directory = f"{self._find(process)}/task"
        try:
            tasks = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        with closing_descriptor(tasks):
            for name in _list(directory):
                with contextlib.suppress(*_ENDED):
                    number, facts = read_thread("/proc" if is_own else self.proc, tasks, name, depth)
                    facts = {**facts, **(read_attributes(int(name)) if is_own else {})}
                    if _add(subjects, name_thread(number), facts) and is_own:
                        yield _make_asked(name_thread(number), int(name), facts)

    def read_descriptors(self, process: Process, subjects: dict[str, Facts]) -> None:
        """Add the facts about the descriptors of a process."""
        directory, number = self._find(process), process.pids[len(self.tree[0].pids) - 1]
        with _open_pidfd(self.own_pids.get(process.pid)) as pidfd:
            for name in _list(f"{directory}/fd"):
                with contextlib.suppress(*_UNREADABLE):
                    facts = read_descriptor(directory, int(name), pidfd)
                    _add(subjects, name_descriptor(number, int(name)), facts)

    def _read_place(self, process: Process, level: int) -> Facts:
        """Read a process's parent, and which of its namespaces are not those of the container's first process."""
        first = self.tree[0]
        if process.pid == first.pid:
            return {}
        proc = Path(self.proc)
        parent = next((each for each in self.tree if each.pid == process.parent_pid), first)
        own, others = read_namespaces(proc, process.pid), read_namespaces(proc, first.pid)
        differing = ",".join(sorted(kind for kind, name in own.items() if others.get(kind) != name))
        return {"parent": str(parent.pids[level]), "namespaces": differing}


def _add(subjects: dict[str, Facts], subject: str, facts: Facts) -> bool:
    if has_place := len(subjects) < MAX_SUBJECTS:
        subjects[subject] = facts
    return has_place


def _make_asked(subject: str, number: int, facts: Facts) -> AskedThread:
    """Return a thread to be asked. Without no_new_privs, Landlock rules need a capability."""
    may_be_bound = facts["NoNewPrivs"] == "1" or int(facts["CapBnd"], 16) & CAP_SYS_ADMIN
    owner = "{}:{}".format(facts["Uid"].split()[0], facts["Gid"].split()[0]) if may_be_bound else ""
    return AskedThread(subject, number, facts.get("Seccomp") != "0", owner)


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
            namespace = os.readlink(f"/proc/{name}/ns/pid")  # noqa: PTH115  (not a path)
            if namespace in namespaces:
                key = namespace, int(read_status(f"/proc/{name}")["NSpid"].split()[-1])
                found |= {wanted[key]: int(name)} if key in wanted else {}
    return found
