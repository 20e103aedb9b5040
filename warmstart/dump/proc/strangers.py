"""Processes of a container that do not descend from its first one: CRIU would leave them out of a dump.

A daemon whose parent has ended becomes the child of the container's init, which is the launcher where an image is to
restore itself; what `exec` left behind is the child of nobody there. Both are still in the container's cgroup, and in
its PID namespace where it has one of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from warmstart.dump.proc.container import GONE, Process, is_below, read_namespace

# The hierarchy's number and controllers, and where in it the process is; see cgroups(7).
_Cgroups = Mapping[str, str]


def find_strangers(proc: Path, processes: Mapping[int, Process], tree: Sequence[Process]) -> Iterator[Process]:
    """Find them; zombies, which hold nothing, are not among them.

    Args:
        proc: a procfs; all reads go below it.
        processes: all of that procfs, by number.
        tree: the container's first process and its descendants.
    """
    ancestors = _find_ancestors(proc, processes, tree[0])
    known = {process.pid for process in (*tree, *ancestors)}
    top = (*ancestors, tree[0])[0]
    # Otherwise the pod's namespace is shared, and others in it are other containers.
    namespace = read_namespace(proc, top.pid, "pid") if top.pids[-1] == 1 else None
    home = _find_home(proc, top)
    for process in processes.values():
        if process.pid in known or process.is_zombie:
            continue
        # What may not be looked into is not of this container.
        with contextlib.suppress(*GONE, PermissionError):
            is_inside = namespace is not None and read_namespace(proc, process.pid, "pid") == namespace
            if is_inside or _is_within(_read_cgroups(proc, process.pid), home):
                yield process


def _find_ancestors(proc: Path, processes: Mapping[int, Process], first: Process) -> tuple[Process, ...]:
    """The container's processes above one: the launcher, or nothing; the topmost first."""
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
    """The container's own cgroup in each hierarchy where it has one; not where its runtime is in the same."""
    own = _read_cgroups(proc, top.pid)
    deepest = max(own.values(), key=len, default="/")
    try:
        outside = _read_cgroups(proc, top.parent_pid)
    except (*GONE, PermissionError):  # it is started from beyond this procfs
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
    """Read /proc/PID/cgroup; the paths are as seen from the cgroup namespace of the caller."""
    lines = (proc / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    return {f"{number}:{controllers}": path for number, controllers, path in (line.split(":", 2) for line in lines)}
