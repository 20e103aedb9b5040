"""Find self-imposed restrictions of a container's processes that CRIU does not restore.

A restored process inherits these settings from the process that restores it. For the container's first process, they
are those of its parent now. Source: the parts of proc_pid_status(5), prctl(2) and proc(5) that `criu/cr-dump.c` and
`criu/pie/parasite.c` of https://github.com/checkpoint-restore/criu (4.2) do not read. docs/restrictions.md of this
project has the whole list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.dump.preflight.finding import Finding, error, warning
from warmstart.dump.proc.container import GONE, Container
from warmstart.dump.proc.status import read_status

# Kernel status texts for processes with speculation on, limited to settings that prctl(2) can change.
_SPECULATION = {
    "Speculation_Store_Bypass": ("thread vulnerable",),
    "SpeculationIndirectBranch": ("conditional enabled",),
}


@dataclass(frozen=True)
class _Settings:
    """Settings of a process: /proc/PID/coredump_filter and personality, and the enabled kinds of speculation."""

    core_dump: int
    personality: int
    speculation: frozenset[str]


def find_in_restrictions(container: Container, *, by_runtime: bool = True) -> Iterator[Finding]:
    """Compare the processes with the parent of the container's first process.

    Args:
        container: the container.
        by_runtime: whether the runtime is to restore it. The launcher's CRIU restores coredump_filter.
    """
    try:
        outside = _read(container.proc, container.first.parent_pid)
    except (*GONE, PermissionError):  # the parent is outside this procfs
        return
    for process in container.processes:
        if process.pid not in container.resources:  # a zombie has no memory
            continue
        with contextlib.suppress(*GONE):
            own = _read(container.proc, process.pid)
            if by_runtime and outside.core_dump & ~own.core_dump:
                what = "It keeps memory out of core dumps (coredump_filter), which the runtime does not restore."
                fix = "Have it mark that memory with MADV_DONTDUMP instead, or restore with the launcher only (self)."
                yield error("coredump-filter", process, what, fix)
            if outside.speculation - own.speculation:
                what = "It has switched speculation off (PR_SET_SPECULATION_CTRL), which CRIU does not restore."
                yield error("speculation", process, what, "Have it do so for the threads that need it, when they do.")
            if own.personality != outside.personality:
                what = f"Its personality is {own.personality:#x} (setarch), which CRIU does not restore."
                yield warning("personality", process, what, "Start it without setarch or personality(2).")


def _read(proc: Path, pid: int) -> _Settings:
    directory = proc / str(pid)
    fields = read_status(directory)
    on = frozenset(name for name, values in _SPECULATION.items() if fields.get(name) in values)
    return _Settings(_read_number(directory / "coredump_filter"), _read_number(directory / "personality"), on)


def _read_number(path: Path) -> int:
    """Read a hexadecimal number; ProcessLookupError if the process is ending and has no memory (the file is empty)."""
    text = path.read_text()
    if not text:
        raise ProcessLookupError(path)
    return int(text, 16)
