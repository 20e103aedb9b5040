"""Check whether a restore without privileges can reinstall the system call filters (seccomp) of a dump.

CRIU suspends filters during a restore, but this requires CAP_SYS_ADMIN. Without it, the filters are installed last
(`seccomp_last` in `launcher/criu/restore-without-capabilities.patch`). After that a thread makes only the system calls
listed here, and its filters must allow them. A process is never restored without its filters.

Sources: `criu/seccomp.c`, `criu/pie/restorer.c` and `images/seccomp.proto` of
https://github.com/checkpoint-restore/criu (4.2).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import read_cores
from warmstart.dump.criu.entries import decode, read_image
from warmstart.dump.preflight.bpf import ALLOW, LOG, USER_NOTIFICATION, find_verdicts, list_return_values
from warmstart.dump.preflight.finding import Finding, error

_STRICT, _FILTERED = 1, 2  # SECCOMP_MODE_*
_TSYNC = 1  # SECCOMP_FILTER_FLAG_TSYNC
_ADD = "seccomp"


@dataclass(frozen=True)
class _Architecture:
    """AUDIT_ARCH_*, and the numbers of the last system calls of a restore."""

    audit: int
    numbers: dict[str, int]


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, {"munmap": 11, "rt_sigreturn": 15, "futex": 202, _ADD: 317}),
    "aarch64": _Architecture(0xC00000B7, {"munmap": 215, "rt_sigreturn": 139, "futex": 98, _ADD: 277}),
}


@dataclass(frozen=True)
class _Filter:
    program: bytes
    flags: int


@dataclass(frozen=True)
class _Thread:
    """A thread of the dump: its seccomp mode and its filters, oldest first."""

    mode: int
    filters: tuple[_Filter, ...]


@dataclass(frozen=True)
class _Task:
    pid: int
    name: str
    threads: tuple[_Thread, ...]  # the main thread first


def check_filters(directory: Path, machine: str = "") -> tuple[Finding, ...]:
    """Find filters in a dump that an image cannot restore by itself; pids are the container's.

    Args:
        directory: directory of CRIU's image files.
        machine: processor architecture, as in `platform.machine`; this machine's if empty.

    Raises:
        ArchiveError: a file is missing or not understood.
    """
    architecture = _ARCHITECTURES[machine or platform.machine()]
    found: list[Finding] = []
    for task in _read_tasks(directory):
        try:
            found += _check_task(task, architecture)
        except ValueError as wrong:
            raise ArchiveError(f"{directory / 'seccomp.img'}: {wrong}") from wrong
    return tuple(found)


def _check_task(task: _Task, architecture: _Architecture) -> Iterator[Finding]:
    if any(thread.mode == _STRICT for thread in task.threads):
        what = "It is in seccomp's strict mode, in which an image that restores itself cannot put it."
        yield error("seccomp-strict", task, what, "Use a filter (SECCOMP_MODE_FILTER) instead.")
        return
    filters = [each for thread in task.threads for each in thread.filters]
    if any(USER_NOTIFICATION in list_return_values(each.program) for each in filters):
        what = "Its system call filter asks another process (SECCOMP_RET_USER_NOTIF). This cannot be restored."
        yield error("seccomp-notify", task, what, "Build without the supervisor of its system calls.")
    missing = sorted({name for at, thread in enumerate(task.threads) for name in _find_missing(task, at, architecture)})
    if missing:
        what = (
            f"Its own system call filter does not allow {', '.join(missing)}, which a restore has to call once the "
            "filter is in force."
        )
        fix = (
            "Have the filter allow these calls with any arguments, or restore the image with the runtime only "
            "(restore: [runtime])."
        )
        yield error("seccomp-filter", task, what, fix)


def _find_missing(task: _Task, at: int, architecture: _Architecture) -> Iterator[str]:
    """Find system calls that a restore makes in a thread and its filters may not allow."""
    filters = task.threads[at].filters
    if not filters:
        return
    needed = ["rt_sigreturn"]
    if at == 0:
        needed.append("munmap")
    if len(task.threads) > 1 and (at > 0 or any(each.flags & _TSYNC for each in filters)):
        needed.append("futex")
    for number, each in enumerate(filters):
        last = number == len(filters) - 1
        for name in needed if last else [*needed, _ADD]:
            if not find_verdicts(each.program, architecture.audit, architecture.numbers[name]) <= {ALLOW, LOG}:
                yield name


def _read_tasks(directory: Path) -> Iterator[_Task]:
    filters = _read_filters(directory / "seccomp.img")
    for pid, cores in read_cores(directory).items():
        name = cores[pid].tc.comm.decode(errors="replace")
        yield _Task(pid, name, tuple(_read_thread(directory, core, filters) for core in cores.values()))


def _read_filters(path: Path) -> Sequence[Any]:
    if not path.exists():
        return ()
    return [each for entry in read_image(path) for each in decode(path, entry, protos.Seccomp).seccomp_filters]


def _read_thread(directory: Path, core: Any, filters: Sequence[Any]) -> _Thread:
    mode, chain = core.thread_core.seccomp_mode, []
    if mode == _FILTERED:
        at, left = core.thread_core.seccomp_filter, len(filters)
        while True:
            if at >= len(filters) or left == 0:
                raise ArchiveError(f"{directory / 'seccomp.img'}: has no filter {at}, or a circle of filters")
            chain.append(_Filter(filters[at].filter, filters[at].flags))
            if not filters[at].HasField("prev"):
                break
            at, left = filters[at].prev, left - 1
    return _Thread(mode, tuple(chain))
