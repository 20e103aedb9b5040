"""The embedded node's cgroup, on cgroup v1, v2 and hybrid hosts, removed with the node.

Everything that the embedded node runs is below it, so one recursive removal cleans up after every runtime.
On a hybrid host the v1 hierarchies hold the controllers and are used. The node has a cgroup in the v2 hierarchy too:
CRIU reads every hierarchy, stores all cgroups that it finds in the image, and makes them again on restore.
Formats: cgroups(7), and proc_pid_mountinfo(5) for where the hierarchies are mounted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.core.mountinfo import parse_mountinfo, read_mountinfo
from warmstart.core.workspace import PREFIX

LEAF = "node"
REMOVAL_S = 5.0
# Time for a cgroup to freeze, which takes some milliseconds.
FREEZE_S, FREEZE_POLL_S = 1.0, 0.002
# Swept cgroups hold no running processes, at most frozen ones.
SWEEP_S = 1.0
# Workspace names, as `open_workspace` and mkdtemp make them; no systemd unit has such a name.
_NAME = re.compile(rf"{PREFIX}(?:[a-z0-9]+-)+[a-z0-9_]{{8}}")


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        mount_point: its mount point.
        options: options of mount(2) to mount it again, such as `memory` or `none,name=systemd`; empty on v2.
        own: directory of this process's cgroup in it.
        has_leaf: whether the node's own processes are in a leaf. False in the v2 hierarchy of a hybrid host, where
            containers share their cgroup and should see it as the root.
    """

    mount_point: Path
    options: str
    own: Path
    has_leaf: bool = True

    @property
    def is_v2(self) -> bool:
        """True for the unified hierarchy."""
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
        """Move this process from the cgroup into the leaf, and enable the controllers for child cgroups.

        In cgroup v2, a cgroup other than the root cannot hold processes and enable controllers for its children.
        """
        for hierarchy, directory in self.directories:
            if not hierarchy.has_leaf:
                continue
            (directory / LEAF / "cgroup.procs").write_text("0")
            if hierarchy.is_v2:
                _hand_down(directory)

    def thaw(self) -> None:
        """Thaw all frozen processes: on cgroup v1, not even SIGKILL reaches a frozen process."""
        for hierarchy, top in self.directories:
            if "freezer" in hierarchy.options.split(","):
                for directory, _, _ in os.walk(top):
                    # The root of a hierarchy has no such file, and another process may have removed the cgroup.
                    with contextlib.suppress(OSError):
                        (Path(directory) / "freezer.state").write_text("THAWED")

    def remove(self) -> None:
        """Remove the cgroup and its children; their processes must have ended, or be about to."""
        deadline = time.monotonic() + REMOVAL_S
        for _, directory in self.directories:
            _remove_tree(directory, deadline)


def read_cgroup_file(process: Path, name: str) -> str | None:
    """Return the text of a file of the cgroup of a process, given its directory in /proc; None if there is none.

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
    """
    for hierarchy in _find_hierarchies_of(process):
        if (hierarchy.own / name).is_file():
            return (hierarchy.own / name).read_text()
    return None


def freeze_for_a_moment(process: Path, pause_s: float = 0.0) -> None:
    """Freeze all processes in the cgroup of a process, given its directory in /proc, and thaw them after `pause_s`.

    The cgroup must be a container's: on a hybrid host, all share one in the v2 hierarchy, which stays as it is. Does
    nothing if no hierarchy can freeze. Formats: the kernel's freezer-subsystem.rst (v1) and cgroup-v2.rst.

    Raises:
        OSError: the process has ended.
    """
    for hierarchy in _find_hierarchies_of(process):
        own = hierarchy.own
        if "freezer" in hierarchy.options.split(","):
            _freeze(own / "freezer.state", ("FROZEN", "THAWED"), own / "freezer.state", "FROZEN", pause_s)
        elif hierarchy.is_v2 and hierarchy.has_leaf:
            _freeze(own / "cgroup.freeze", ("1", "0"), own / "cgroup.events", "frozen 1", pause_s)


def _find_hierarchies_of(process: Path) -> tuple[Hierarchy, ...]:
    """Return the hierarchies with the cgroups of a process, given its directory in /proc."""
    membership = (process / "cgroup").read_text(errors="replace")
    return find_hierarchies(read_mountinfo(Path("/proc/self/mountinfo")), membership)


def _freeze(switch: Path, words: tuple[str, str], sign: Path, frozen: str, pause_s: float) -> None:
    """Write the first word, wait until a line of `sign` is `frozen`, and write the second word after a pause."""
    deadline = time.monotonic() + FREEZE_S
    try:
        switch.write_text(words[0])
        # A thread that waits for a disk is frozen later.
        while frozen not in sign.read_text().splitlines() and time.monotonic() < deadline:
            time.sleep(FREEZE_POLL_S)
        time.sleep(pause_s)
    finally:
        switch.write_text(words[1])


def find_hierarchies(mountinfo: str, membership: str) -> tuple[Hierarchy, ...]:
    """Select the hierarchies to use, from the texts of /proc/self/mountinfo and /proc/self/cgroup.

    They are those of cgroup v1, if they control processors or memory, followed by that of v2. Other v1 hierarchies
    (systemd's on a hybrid host, or net_cls, mounted by some VPN clients) do not make a v1 host.
    """
    own_paths: dict[str, str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        own_paths[names] = path
    v1: dict[str, Hierarchy] = {}
    v2: list[Hierarchy] = []
    for mount in parse_mountinfo(mountinfo):
        point, root = mount.mount_point, mount.root
        if mount.kind == "cgroup2":
            v2.append(Hierarchy(Path(point), "", _own_directory(point, root, own_paths.get("", "/"))))
        if mount.kind == "cgroup" and (controllers := _find_controllers(mount.super_options, own_paths)):
            options = f"none,{controllers}" if controllers.startswith("name=") else controllers
            found = Hierarchy(Path(point), options, _own_directory(point, root, own_paths[controllers]))
            # In a container, its own cgroup may be mounted a second time.
            v1.setdefault(controllers, found)
    is_v1 = any({"cpu", "memory"} & set(names.split(",")) for names in v1)
    if not is_v1:
        return tuple(v2[:1])
    return (*v1.values(), *(replace(hierarchy, has_leaf=False) for hierarchy in v2[:1]))


def limits_processes(hierarchies: Iterable[Hierarchy]) -> bool:
    """Tell whether a cgroup in these hierarchies can limit the number of processes (the controller `pids`)."""
    for hierarchy in hierarchies:
        if "pids" in hierarchy.options.split(","):
            return True
        if hierarchy.is_v2 and hierarchy.has_leaf:
            return "pids" in _read_names(hierarchy.mount_point / "cgroup.controllers")
    return False


def find_own_hierarchies() -> tuple[Hierarchy, ...]:
    """Return the hierarchies to use on this machine; empty if none is mounted."""
    return find_hierarchies(read_mountinfo(Path("/proc/self/mountinfo")), Path("/proc/self/cgroup").read_text())


def find_cgroup(name: str) -> Cgroup:
    """Return the cgroup called `name`, whether or not it exists.

    Raises:
        HostError: cgroups are not mounted.
    """
    hierarchies = find_own_hierarchies()
    if not hierarchies:
        raise HostError("no cgroup hierarchy is mounted", hint="mount -t cgroup2 none /sys/fs/cgroup")
    # On v2, below the root of the mount: our own cgroup holds processes, so it cannot enable controllers for children.
    return Cgroup(tuple((found, (found.mount_point if found.is_v2 else found.own) / name) for found in hierarchies))


@contextlib.contextmanager
def make_cgroup(name: str) -> Iterator[Cgroup]:
    """Make a cgroup called `name`, and remove it at the end of the block.

    Its directories stay locked (flock(2)) while this process lives, to keep `sweep_cgroups` from removing them.

    Raises:
        HostError: cgroups are not mounted, or cannot be made.
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
            hint = "run as root, and in a container with --privileged and a writable /sys/fs/cgroup"
            raise HostError(f"cannot make a cgroup: {error.strerror}: {error.filename}", hint=hint) from error
        yield cgroup


def _find_controllers(super_options: str, known: Iterable[str]) -> str | None:
    """Return the controllers of a v1 hierarchy as in /proc/self/cgroup, from among options such as `xattr`."""
    options = set(super_options.split(","))
    return next((controllers for controllers in known if controllers and set(controllers.split(",")) <= options), None)


def _own_directory(mount_point: str, root: str, path: str) -> Path:
    below = os.path.relpath(path, root)
    return Path(mount_point) if below.startswith("..") else Path(mount_point) / below


def sweep_cgroups() -> None:
    """Remove the unlocked cgroups: their commands were killed together with their keepers."""
    for hierarchy in find_own_hierarchies():
        for directory in _find_ours(hierarchy.mount_point):
            with contextlib.suppress(OSError):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _holds_living(directory):
                        continue
                    Cgroup(((hierarchy, directory),)).thaw()
                    # Whoever was about to lock it makes another one of the same name when it is gone.
                    _remove_tree(directory, time.monotonic() + SWEEP_S, partial(_is_still, directory, descriptor))
                finally:
                    os.close(descriptor)


def _holds_living(top: Path) -> bool:
    """Tell whether a cgroup or its children hold a process without a pending SIGKILL (see signal(7))."""
    for directory, _, _ in os.walk(top):
        for pid in (Path(directory) / "cgroup.procs").read_text().split():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                # The process has ended, or (0) is in another PID namespace.
                if pid == "0":
                    return True
                continue
            pending = [int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\t(\w+)$", status, re.MULTILINE)]
            if not any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending):
                return True
    return False


def _find_ours(top: Path) -> list[Path]:
    """Return the cgroups named like a workspace, at any depth: a command makes its own below the one it runs in."""
    found = []
    for directory, names, _ in os.walk(top):
        ours = [name for name in names if _NAME.fullmatch(name)]
        found += [Path(directory) / name for name in ours]
        names[:] = set(names) - set(ours)
    return found


def _make(hierarchy: Hierarchy, directory: Path) -> int:
    """Make a cgroup with its leaf, and return the descriptor that holds its lock."""
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
        # A sweep before it is locked removes it as a leftover.
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
        # A new v1 cpuset is empty, and accepts no process until it has processors and memory nodes.
        for group in (directory, directory / LEAF):
            for item in ("cpuset.cpus", "cpuset.mems"):
                (group / item).write_text((group.parent / item).read_text())


@contextlib.contextmanager
def _handed_down(parent: Path) -> Iterator[None]:
    """Enable all controllers for the children of a v2 cgroup for the length of a `with` block.

    systemd enables only those that its own units use: memory and pids, but not cpu, below the root of a Debian.
    """
    before = _read_names(parent / "cgroup.subtree_control")
    _hand_down(parent)
    try:
        yield
    finally:
        for name in _read_names(parent / "cgroup.subtree_control") - before:
            # EBUSY if another process uses it by now.
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"-{name}")


def _hand_down(directory: Path) -> None:
    for name in _read_names(directory / "cgroup.controllers"):
        # The kernel may refuse one, such as cpu if there are realtime processes; users of it report that.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{name}")


def _read_names(path: Path) -> set[str]:
    return set(path.read_text().split())


def _is_still(directory: Path, descriptor: int) -> bool:
    """Tell whether a path still leads to an open directory."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(directory.stat(), os.fstat(descriptor))
    return False


def _remove_tree(top: Path, deadline: float, is_there: Callable[[], bool] | None = None) -> None:
    is_there = is_there or top.exists
    while is_there():
        for directory, _, _ in os.walk(top, topdown=False):
            # EBUSY while the kernel is still reaping its processes; retried below.
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        if time.monotonic() > deadline:
            return
        if is_there():
            time.sleep(0.02)
