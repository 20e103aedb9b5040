"""Read the memory of containers and of the machine.

Formats: proc_pid_smaps(5) for the memory of processes, cgroups(7) for that of their cgroup.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from warmstart.dump.proc.container import GONE, list_namespace
from warmstart.node.cgroup import read_cgroup_file

KIB = 1024


@dataclass(frozen=True)
class Memory:
    """The memory of all processes of some containers, in bytes.

    Attributes:
        anonymous_bytes: private memory, shared with no other container.
        file_bytes: file pages in the page cache, shared by all containers on a node.
        proportional_bytes: both, with a page mapped by several processes divided among them. Over all these
            processes, each page counts once.
        cgroup_bytes: memory charged to the containers; a file page is charged to the first user.
    """

    anonymous_bytes: int
    file_bytes: int
    proportional_bytes: int
    cgroup_bytes: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.anonymous_bytes + other.anonymous_bytes,
            self.file_bytes + other.file_bytes,
            self.proportional_bytes + other.proportional_bytes,
            self.cgroup_bytes + other.cgroup_bytes,
        )


def read_memory(proc: Path, first_pid: int) -> Memory:
    """Read the memory of a container.

    Args:
        proc: the /proc of the PID namespace that `first_pid` refers to.
        first_pid: init process of the container; all processes of its PID namespace count.
    """
    totals = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    for pid in list_namespace(proc, first_pid):
        with contextlib.suppress(*GONE):
            for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
                name, _, value = line.partition(":")
                if name in totals:
                    totals[name] += int(value.split()[0]) * KIB
    return Memory(
        anonymous_bytes=totals["Anonymous"],
        file_bytes=totals["Rss"] - totals["Anonymous"],
        proportional_bytes=totals["Pss"],
        cgroup_bytes=_read_cgroup_bytes(proc, first_pid),
    )


def read_available_bytes() -> int:
    """Read the memory available for new programs, by the kernel's estimate (MemAvailable in proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:"))


def _read_cgroup_bytes(proc: Path, pid: int) -> int:
    names = ("memory.current", "memory.usage_in_bytes")
    return next((int(text) for name in names if (text := read_cgroup_file(proc / str(pid), name))), 0)
