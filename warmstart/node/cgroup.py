"""A cgroup of our own, on cgroup v1, v2 and hybrid hosts, that is gone when we are.

Everything the embedded node runs lives below it: one recursive removal cleans up whatever a runtime left.
On a hybrid host the v1 hierarchies are used: there they hold the controllers. The node has a cgroup in the v2 one all
the same: CRIU looks into every hierarchy, and all that it sees there goes into the image and is made again.
Formats: cgroups(7), and proc_pid_mountinfo(5) for where the hierarchies are mounted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.workspace import PREFIX

LEAF = "node"
REMOVAL_S = 5.0
# Nothing runs any more in what is swept, unless it was frozen.
SWEEP_S = 1.0
# A workspace's, as `open_workspace` and mkdtemp make it; no unit of systemd's is called so.
_NAME = re.compile(rf"{PREFIX}(?:[a-z0-9]+-)+[a-z0-9_]{{8}}")


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        mount_point: where it is mounted.
        options: what to give mount(2) to mount it again, such as `memory` or `none,name=systemd`; empty on v2.
        own: the cgroup of this process in it, as a directory.
        has_leaf: whether the node's own processes are in a leaf; not in the v2 hierarchy of a hybrid host, where
            containers are in the same cgroup as they are, and should find themselves at the root.
    """

    mount_point: Path
    options: str
    own: Path
    has_leaf: bool = True

    @property
    def is_v2(self) -> bool:
        """Whether this is the unified hierarchy."""
        return not self.options


@dataclass(frozen=True)
class Cgroup:
    """One cgroup in each of the hierarchies, with a leaf for the node's own processes."""

    directories: tuple[tuple[Hierarchy, Path], ...]

    def join(self) -> None:
        """Move this process into the cgroup."""
        for _, directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def settle(self) -> None:
        """Move this process, which has joined, on into the leaf; then what the cgroup controls can be handed down.

        cgroup v2 lets no process be in a cgroup that hands controllers to its children, but for the root.
        """
        for hierarchy, directory in self.directories:
            if not hierarchy.has_leaf:
                continue
            (directory / LEAF / "cgroup.procs").write_text("0")
            if hierarchy.is_v2:
                _hand_down(directory)

    def thaw(self) -> None:
        """Let what is frozen in it go on: on cgroup v1 not even SIGKILL reaches a frozen process."""
        for hierarchy, top in self.directories:
            if "freezer" in hierarchy.options.split(","):
                for directory, _, _ in os.walk(top):
                    # The root of a hierarchy has no such file, and a cgroup may just have been removed.
                    with contextlib.suppress(OSError):
                        (Path(directory) / "freezer.state").write_text("THAWED")

    def remove(self) -> None:
        """Remove it with all below it; processes in it must have ended, or be about to."""
        deadline = time.monotonic() + REMOVAL_S
        for _, directory in self.directories:
            _remove_tree(directory, deadline)


def find_hierarchies(mountinfo: str, membership: str) -> tuple[Hierarchy, ...]:
    """The hierarchies to use, from the texts of /proc/self/mountinfo and /proc/self/cgroup.

    Those of cgroup v1 where they control processors or memory, and that of v2 last; all else that is v1 (systemd's on a
    hybrid host, or net_cls, which some VPN clients mount) says nothing about how the host is run.
    """
    own_paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        own_paths[names] = path
    v1: dict[str, Hierarchy] = {}
    v2: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split(" ", 2)
        root, mount_point = before.split(" ")[3:5]
        if kind == "cgroup2":
            v2.append(Hierarchy(Path(mount_point), "", _own_directory(mount_point, root, own_paths.get("", "/"))))
        if kind == "cgroup" and (controllers := _find_controllers(super_options, own_paths)):
            options = f"none,{controllers}" if controllers.startswith("name=") else controllers
            found = Hierarchy(Path(mount_point), options, _own_directory(mount_point, root, own_paths[controllers]))
            # A container's own may be mounted a second time, elsewhere.
            v1.setdefault(controllers, found)
    is_v1 = any({"cpu", "memory"} & set(names.split(",")) for names in v1)
    if not is_v1:
        return tuple(v2[:1])
    return (*v1.values(), *(replace(hierarchy, has_leaf=False) for hierarchy in v2[:1]))


def limits_processes(hierarchies: Iterable[Hierarchy]) -> bool:
    """Whether a cgroup in these hierarchies can limit the number of processes (the controller `pids`)."""
    for hierarchy in hierarchies:
        if "pids" in hierarchy.options.split(","):
            return True
        if hierarchy.is_v2 and hierarchy.has_leaf:
            return "pids" in _read_names(hierarchy.mount_point / "cgroup.controllers")
    return False


def find_own_hierarchies() -> tuple[Hierarchy, ...]:
    """The hierarchies to use on this machine; empty where none is mounted."""
    return find_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def find_cgroup(name: str) -> Cgroup:
    """Where a cgroup called `name` is, made or not.

    Raises:
        HostError: cgroups are not mounted.
    """
    hierarchies = find_own_hierarchies()
    if not hierarchies:
        raise HostError("no cgroup hierarchy is mounted", hint="mount cgroup2 on /sys/fs/cgroup")
    # On v2 below the root of the mount: our own cgroup holds processes, so it cannot hand on its controllers.
    return Cgroup(tuple((found, (found.mount_point if found.is_v2 else found.own) / name) for found in hierarchies))


@contextlib.contextmanager
def make_cgroup(name: str) -> Iterator[Cgroup]:
    """A new cgroup called `name`, removed at the end.

    Its directories are locked (flock(2)) for as long as this process lives, so that `sweep_cgroups` can tell.

    Raises:
        HostError: cgroups are not mounted, or may not be made here.
    """
    cgroup = find_cgroup(name)
    with contextlib.ExitStack() as locks, contextlib.ExitStack() as undone:
        try:
            for hierarchy, directory in cgroup.directories:
                if hierarchy.is_v2 and hierarchy.has_leaf:
                    undone.enter_context(_handed_down(directory.parent))
            undone.callback(cgroup.remove)
            for hierarchy, directory in cgroup.directories:
                locks.callback(os.close, _make(hierarchy, directory))
        except OSError as error:
            hint = "run as root; in a container, with --privileged and a writable /sys/fs/cgroup"
            raise HostError(f"cannot make a cgroup: {error.strerror}: {error.filename}", hint=hint) from error
        yield cgroup


def _find_controllers(super_options: str, known: Iterable[str]) -> str | None:
    """The controllers of a v1 hierarchy as /proc/self/cgroup has them, among options such as `xattr` or `seclabel`."""
    options = set(super_options.split(","))
    return next((controllers for controllers in known if controllers and set(controllers.split(",")) <= options), None)


def _own_directory(mount_point: str, root: str, path: str) -> Path:
    below = os.path.relpath(path, root)
    return Path(mount_point) if below.startswith("..") else Path(mount_point) / below


def sweep_cgroups() -> None:
    """Remove the cgroups of commands that were killed together with their keepers: those that nobody holds locked."""
    for hierarchy in find_own_hierarchies():
        for directory in _find_ours(hierarchy.mount_point):
            with contextlib.suppress(OSError):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _holds_living(directory):
                        continue
                    Cgroup(((hierarchy, directory),)).thaw()
                    _remove_tree(directory, time.monotonic() + SWEEP_S)
                finally:
                    os.close(descriptor)


def _holds_living(top: Path) -> bool:
    """Whether a process is in a cgroup or below it that is not about to die; one that is frozen may be (signal(7))."""
    for directory, _, _ in os.walk(top):
        for pid in (Path(directory) / "cgroup.procs").read_text().split():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                # It has ended, or (0) is in another PID namespace.
                if pid == "0":
                    return True
                continue
            pending = [int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\t(\w+)$", status, re.MULTILINE)]
            if not any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending):
                return True
    return False


def _find_ours(top: Path) -> list[Path]:
    """The cgroups that have the name of a workspace; commands may run in any cgroup and so make theirs anywhere."""
    found = []
    for directory, names, _ in os.walk(top):
        ours = [name for name in names if _NAME.fullmatch(name)]
        found += [Path(directory) / name for name in ours]
        names[:] = set(names) - set(ours)
    return found


def _make(hierarchy: Hierarchy, directory: Path) -> int:
    """Make a cgroup with its leaf; the descriptor holds its lock."""
    descriptor = _make_locked(directory)
    try:
        _fill(hierarchy, directory)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_locked(directory: Path) -> int:
    while True:
        directory.mkdir()
        # A sweep that comes before it is locked takes it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if directory.exists():
                return descriptor
            os.close(descriptor)


def _fill(hierarchy: Hierarchy, directory: Path) -> None:
    if hierarchy.has_leaf:
        (directory / LEAF).mkdir()
    if "cpuset" in hierarchy.options.split(","):
        # A new v1 cpuset is empty, and admits nobody until it has processors and memory nodes.
        for place in (directory, directory / LEAF):
            for item in ("cpuset.cpus", "cpuset.mems"):
                (place / item).write_text((place.parent / item).read_text())


@contextlib.contextmanager
def _handed_down(parent: Path) -> Iterator[None]:
    """Let the children of a cgroup of v2 have all its controllers for the length of a `with` block.

    systemd hands down only what its own units use: below the root of a Debian, that is memory and pids, and not cpu.
    """
    before = _read_names(parent / "cgroup.subtree_control")
    _hand_down(parent)
    try:
        yield
    finally:
        for name in _read_names(parent / "cgroup.subtree_control") - before:
            # EBUSY where somebody else has come to use it.
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"-{name}")


def _hand_down(directory: Path) -> None:
    for name in _read_names(directory / "cgroup.controllers"):
        # The kernel may refuse one, such as cpu where there are realtime processes: what needs it says so.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{name}")


def _read_names(path: Path) -> set[str]:
    return set(path.read_text().split())


def _remove_tree(top: Path, deadline: float) -> None:
    while top.exists():
        for directory, _, _ in os.walk(top, topdown=False):
            # EBUSY while the kernel is still reaping what ran there; tried again below.
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() > deadline:
            return
        if top.exists():
            time.sleep(0.02)
