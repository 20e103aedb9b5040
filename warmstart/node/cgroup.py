"""A cgroup of our own, on cgroup v1, v2 and hybrid hosts, that is gone when we are.

Everything the embedded node runs lives below it: one recursive removal cleans up whatever a runtime left.
On a hybrid host only the v1 hierarchies are used: there they hold the controllers.
Formats: cgroups(7), and proc_pid_mountinfo(5) for where the hierarchies are mounted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import HostError

LEAF = "node"
REMOVAL_S = 5.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        mount_point: where it is mounted.
        options: what to give mount(2) to mount it again, such as `memory` or `none,name=systemd`; empty on v2.
        own: the cgroup of this process in it, as a directory.
    """

    mount_point: Path
    options: str
    own: Path

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return not self.options


@dataclass(frozen=True)
class Cgroup:
    """One cgroup in each of the hierarchies, with a leaf for the node's own processes.

    cgroup v2 lets no process stay in a cgroup whose controllers are handed to its children.
    """

    directories: tuple[tuple[Hierarchy, Path], ...]

    def join(self, leaf: bool) -> None:
        """Move this process into the cgroup, or into its leaf."""
        for _, directory in self.directories:
            place = directory / LEAF if leaf else directory
            (place / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        """Remove it with all below it; processes in it must have ended, or be about to."""
        for _, directory in self.directories:
            _remove_tree(directory)


def find_hierarchies(mountinfo: str, membership: str) -> tuple[Hierarchy, ...]:
    """The hierarchies to use, from the texts of /proc/self/mountinfo and /proc/self/cgroup."""
    own_paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own_paths[controllers] = path
    v1: list[Hierarchy] = []
    v2: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount_point = before.split(" ")[3:5]
        if kind == "cgroup2":
            v2.append(Hierarchy(Path(mount_point), "", _own_directory(mount_point, root, own_paths.get("", "/"))))
            continue
        controllers = ",".join(o for o in super_options.split(",") if o not in ("rw", "ro", "xattr"))
        if controllers in own_paths:
            options = f"none,{controllers}" if controllers.startswith("name=") else controllers
            v1.append(Hierarchy(Path(mount_point), options, _own_directory(mount_point, root, own_paths[controllers])))
    return tuple(v1) if any(not h.options.startswith("none") for h in v1) else tuple(v2[:1])


@contextlib.contextmanager
def make_cgroup(name: str) -> Iterator[Cgroup]:
    """A new cgroup called `name`, removed at the end.

    Raises:
        HostError: cgroups are not mounted, or may not be made here.
    """
    hierarchies = find_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if not hierarchies:
        raise HostError("no cgroup hierarchy is mounted", hint="mount cgroup2 on /sys/fs/cgroup")
    places = []
    for hierarchy in hierarchies:
        # On v2 below the root of the mount: our own cgroup holds processes, so it cannot hand on its controllers.
        parent = hierarchy.mount_point if hierarchy.is_v2 else hierarchy.own
        places.append((hierarchy, parent / name))
    cgroup = Cgroup(tuple(places))
    try:
        for hierarchy, directory in cgroup.directories:
            _make(hierarchy, directory)
        yield cgroup
    except OSError as error:
        hint = "run as root; in a container, with --privileged and a writable /sys/fs/cgroup"
        raise HostError(f"cannot make a cgroup: {error}", hint=hint) from error
    finally:
        cgroup.remove()


def _own_directory(mount_point: str, root: str, path: str) -> Path:
    below = os.path.relpath(path, root)
    return Path(mount_point) if below.startswith("..") else Path(mount_point) / below


def _make(hierarchy: Hierarchy, directory: Path) -> None:
    (directory / LEAF).mkdir(parents=True)
    if hierarchy.is_v2:
        controllers = (directory.parent / "cgroup.subtree_control").read_text().split()
        (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    elif "cpuset" in hierarchy.options:
        # A new v1 cpuset is empty, and admits nobody until it has processors and memory nodes.
        for place in (directory, directory / LEAF):
            for item in ("cpuset.cpus", "cpuset.mems"):
                (place / item).write_text((directory.parent / item).read_text())


def _remove_tree(top: Path) -> None:
    deadline = time.monotonic() + REMOVAL_S
    while top.exists():
        for directory, _, _ in os.walk(top, topdown=False):
            # EBUSY while the kernel is still reaping what ran there; tried again below.
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() > deadline:
            return
        if top.exists():
            time.sleep(0.02)
