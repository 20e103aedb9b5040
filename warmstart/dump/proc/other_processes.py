"""Find processes of a container that do not descend from its first one, since CRIU would leave them out of a dump.

An orphaned daemon becomes a child of the container's init, the launcher in an image that restores itself. A process
left by `exec` has no parent in the container. Both are still in the container's cgroup, and in its PID namespace if it
has its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmstart.dump.proc.container import GONE, Process, is_below, read_namespace

# The hierarchy's number and controllers → the process's path in it; see cgroups(7).
_Cgroups = Mapping[str, str]


def find_other_processes(proc: Path, processes: Mapping[int, Process], tree: Sequence[Process]) -> Iterator[Process]:
    """Find these processes. Zombies are left out, since they hold no resources.

    Args:
        proc: a procfs; nothing is read outside it.
        processes: all processes of that procfs, by PID.
        tree: the container's first process and its descendants.
    """
    ancestors = _find_ancestors(proc, processes, tree[0])
    known = {process.pid for process in (*tree, *ancestors)}
    top = (*ancestors, tree[0])[0]
    # Otherwise the pod shares its namespace, and other processes in it may belong to other containers.
    namespace = read_namespace(proc, top.pid, "pid") if top.pids[-1] == 1 else None
    home = _find_home(proc, top)
    for process in processes.values():
        if process.pid in known or process.is_zombie:
            continue
        # A process that may not be inspected does not belong to this container.
        with contextlib.suppress(*GONE, PermissionError):
            is_inside = namespace is not None and read_namespace(proc, process.pid, "pid") == namespace
            if is_inside or _is_within(_read_cgroups(proc, process.pid), home):
                yield process


def _find_ancestors(proc: Path, processes: Mapping[int, Process], first: Process) -> tuple[Process, ...]:
    """Find the container's processes above `first`, topmost first: the launcher, or none."""
    home, namespace = _read_cgroups(proc, first.pid), read_namespace(proc, first.pid, "pid")
    found: list[Process] = []
    parent = processes.get(first.parent_pid)
    while parent is not None:
        try:
            if _read_cgroups(proc, parent.pid) != home or read_namespace(proc, parent.pid, "pid") != namespace:
                break
        except (*GONE, PermissionError):
            break
        found.insert(0, parent)
        parent = processes.get(parent.parent_pid)
    return tuple(found)


def _find_home(proc: Path, top: Process) -> _Cgroups:
    """Find the container's own cgroup in each hierarchy, without those it shares with its runtime."""
    own = _read_cgroups(proc, top.pid)
    deepest = max(own.values(), key=len, default="/")
    try:
        outside = _read_cgroups(proc, top.parent_pid)
    except (*GONE, PermissionError):  # the parent is outside this procfs
        outside = {}
    if not outside.keys() & own.keys():
        return {}
    return {
        hierarchy: path
        for hierarchy, path in own.items()
        if path == deepest != "/" and not is_below(outside.get(hierarchy, path), path)
    }


def _is_within(cgroups: _Cgroups, home: _Cgroups) -> bool:
    return any(hierarchy in cgroups and is_below(cgroups[hierarchy], path) for hierarchy, path in home.items())


def _read_cgroups(proc: Path, pid: int) -> dict[str, str]:
    """Read /proc/PID/cgroup; its paths are relative to the caller's cgroup namespace."""
    lines = (proc / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    return {f"{number}:{controllers}": path for number, controllers, path in (line.split(":", 2) for line in lines)}
