"""Read the restrictions of processes, and compare them before the dump and after the restore.

Each thread has its own system call filters (seccomp), no_new_privs, capabilities, users and groups. Source:
proc_pid_status(5), capabilities(7).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from warmstart.dump.proc.container import GONE, read_tree

_SETS = {
    "CapEff": "effective capabilities",
    "CapPrm": "permitted capabilities",
    "CapInh": "inheritable capabilities",
    "CapAmb": "ambient capabilities",
    "CapBnd": "capability bounding set",
}
# With no_new_privs set, a larger set gives no capabilities, and a restore without privileges cannot reduce it.
_BOUNDING = "CapBnd"


@dataclass(frozen=True)
class Restrictions:
    """The restrictions of a thread.

    Attributes:
        name: name of the thread.
        mode: seccomp mode: 0 none, 1 strict, 2 filters.
        filters: number of seccomp filters; None if the kernel does not show it (before Linux 5.9).
        no_new_privs: whether it is set.
        users, groups: real, effective, saved, and filesystem ids.
        supplementary: supplementary groups and the effective one, since some runtimes list it among them.
        capabilities: the five sets, by name in /proc/PID/status.
    """

    name: str
    mode: int
    filters: int | None
    no_new_privs: bool
    users: tuple[int, ...]
    groups: tuple[int, ...]
    supplementary: frozenset[int]
    capabilities: Mapping[str, int]


def read_restrictions(proc: Path, first_pid: int) -> dict[int, Restrictions]:
    """Read the restrictions of all threads of a process and its descendants, by PID in the innermost PID namespace.

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
        PermissionError: the caller may not inspect the processes.
    """
    found = {}
    for process in read_tree(proc, first_pid):
        tasks = proc / str(process.pid) / "task"
        with contextlib.suppress(*GONE):
            for name in os.listdir(tasks):  # noqa: PTH208  (names only)
                with contextlib.suppress(*GONE):
                    number, restrictions = parse_status((tasks / name / "status").read_text(errors="replace"))
                    found[number] = restrictions
    return found


def parse_status(text: str) -> tuple[int, Restrictions]:
    """Parse /proc/PID/status into the PID in the innermost PID namespace and the restrictions."""
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    groups = tuple(map(int, fields["Gid"].split()))
    filters = fields.get("Seccomp_filters")
    return int(fields["NSpid"].split()[-1]), Restrictions(
        name=fields["Name"],
        mode=int(fields.get("Seccomp", "0")),
        filters=None if filters is None else int(filters),
        no_new_privs=fields.get("NoNewPrivs") == "1",
        users=tuple(map(int, fields["Uid"].split())),
        groups=groups,
        supplementary=frozenset(map(int, fields.get("Groups", "").split())) | {groups[1]},
        capabilities={name: int(fields.get(name, "0"), 16) for name in _SETS},
    )


def find_lost(before: Mapping[int, Restrictions], after: Mapping[int, Restrictions], *, exact: bool) -> tuple[str, ...]:
    """Compare threads that exist before the dump and after the restore; return a sentence for each lost restriction.

    Args:
        before: threads before the dump, by PID.
        after: threads after the restore, by PID.
        exact: whether the capabilities must be the same; otherwise fewer are accepted.
    """
    found = (
        f"{before[number].name} ({number}): {lost}"
        for number in sorted(before.keys() & after.keys())
        for lost in _compare(before[number], after[number], exact=exact)
    )
    return tuple(dict.fromkeys(found))


def _compare(before: Restrictions, after: Restrictions, *, exact: bool) -> Iterator[str]:
    if before.mode and after.mode != before.mode:
        yield f"seccomp mode {after.mode}, was {before.mode}"
    if before.filters is not None and after.filters is not None and after.filters < before.filters:
        yield f"{after.filters} seccomp filters, were {before.filters}"
    if before.no_new_privs and not after.no_new_privs:
        yield "no_new_privs is not set any more"
    for what, old, new in (
        ("user ids", before.users, after.users),
        ("group ids", before.groups, after.groups),
        ("supplementary groups", sorted(before.supplementary), sorted(after.supplementary)),
    ):
        if old != new:
            yield f"{what} {' '.join(map(str, new))}, were {' '.join(map(str, old))}"
    for name, title in _SETS.items():
        old_set, new_set = before.capabilities[name], after.capabilities[name]
        if name == _BOUNDING:
            is_lost = bool(new_set & ~old_set) and not after.no_new_privs
        else:
            is_lost = new_set != old_set if exact else bool(new_set & ~old_set)
        if is_lost:
            yield f"{title} {new_set:016x}, were {old_set:016x}"
