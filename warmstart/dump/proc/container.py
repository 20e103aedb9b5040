"""Read a running container from a procfs: processes, descriptors, mappings, mounts.

All paths lie below the given procfs, and pids are its pids. It may be of another pid namespace. Formats: proc(5), and
`Documentation/filesystems/proc.rst` of the kernel.

The container keeps running, so anything may end between two reads. The reads then raise one of GONE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from warmstart.core.linux import open_in_root
from warmstart.core.mountinfo import MountInfo, parse_mountinfo, read_mountinfo
from warmstart.dump.proc.status import read_status
from warmstart.recipe.model import VolumeMount

GONE = (FileNotFoundError, ProcessLookupError)

_NAMESPACES = ("user", "pid", "ipc", "uts", "net", "cgroup", "time", "time_for_children", "mnt")
_MAPPING = re.compile(r"(\w+-\w+) \S+ \w+ (\w+):(\w+) (\d+) *(.*)")
_DELETED = " (deleted)"


@dataclass(frozen=True)
class Process:
    """A process.

    Attributes:
        tracer_pid: PID of its tracer; 0 if there is none.
        ids: real, effective and saved user and group ids.
        pids: its PIDs in the procfs's pid namespace, in those below, and last in its own.
        inner_session: session id in its own pid namespace; 0 if the leader is outside.
    """

    pid: int
    name: str
    state: str
    parent_pid: int
    tracer_pid: int
    threads: int
    ids: frozenset[int]
    pids: tuple[int, ...]
    inner_session: int

    @property
    def is_zombie(self) -> bool:
        """Whether its main thread has ended and its parent has not read its exit status yet."""
        return self.state in "ZX"


@dataclass(frozen=True)
class Link:
    """A link in /proc/PID/fd or /proc/PID/map_files, and its target when it was read."""

    path: Path
    target: str

    def is_unchanged(self) -> bool:
        """Whether the descriptor or mapping still refers to the same file."""
        try:
            return os.readlink(self.path) == self.target  # noqa: PTH115  (text, which need not be a path)
        except GONE:
            return False


@dataclass(frozen=True)
class DescriptorInfo:
    """A descriptor's fdinfo: flags as for open(2), its mount, and all lines."""

    flags: int
    mount_id: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Resources:
    """A process's namespaces (kind → identity, such as `net:[4026531840]`), descriptors and mapped files."""

    namespaces: Mapping[str, str]
    descriptors: Sequence[Link]
    mapped_files: Sequence[Link]


@dataclass(frozen=True)
class Container:
    """A container's processes and their resources.

    Attributes:
        proc: the procfs.
        processes: its first process and all descendants, parents before children.
        resources: open resources by pid, without zombies and processes that have ended.
        mounts: mounts of all its mount namespaces.
        parent_ipc: IPC namespace of its parent process; "" if not visible.
        volumes: the pod's volumes by their mount points, as far as the caller knows them.
    """

    proc: Path
    processes: tuple[Process, ...]
    resources: Mapping[int, Resources]
    mounts: tuple[MountInfo, ...]
    parent_ipc: str
    volumes: Mapping[str, VolumeMount] = field(default_factory=dict)

    @property
    def first(self) -> Process:
        """The process that the runtime started."""
        return self.processes[0]

    def each_descriptor(self) -> Iterator[tuple[Process, Link]]:
        """Yield all open descriptors with their processes."""
        for process in self.processes:
            if process.pid in self.resources:
                for descriptor in self.resources[process.pid].descriptors:
                    yield process, descriptor

    def each_mapped_file(self) -> Iterator[tuple[Process, Link]]:
        """Yield all mapped files with their processes."""
        for process in self.processes:
            if process.pid in self.resources:
                for mapped in self.resources[process.pid].mapped_files:
                    yield process, mapped

    def mount_of(self, path: str) -> MountInfo | None:
        """Return the mount that contains a path of the container."""
        above = (mount for mount in self.mounts if is_below(path, mount.mount_point))
        return max(above, key=lambda mount: len(mount.mount_point), default=None)


@contextlib.contextmanager
def open_below_root(proc: Path, pid: int, path: str, flags: int) -> Iterator[int]:
    """Open a path of a process's root directory. The container's symbolic links cannot lead out of it.

    Args:
        path: absolute path in the container.
        flags: flags for open(2), with O_PATH or O_DIRECTORY so that no FIFO or device is opened.
    """
    with closing_descriptor(os.open(proc / str(pid) / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        opened = open_in_root(root, path, flags)
    with closing_descriptor(opened):
        yield opened


@contextlib.contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is the directory or lies below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def strip_deleted(target: str) -> tuple[str, bool]:
    """Split a link's target into the path and whether that path has been deleted."""
    return target.removesuffix(_DELETED), target.endswith(_DELETED)


def read_container(proc: Path, first_pid: int) -> Container:
    """Read a container: its first process and all descendants, as in a dump (`criu/seize.c`).

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
        PermissionError: the caller may not inspect the container's processes.
    """
    tree = read_tree(proc, first_pid)
    resources: dict[int, Resources] = {}
    mounts: dict[int, MountInfo] = {}
    for process in tree:
        if process.is_zombie:
            continue
        with contextlib.suppress(*GONE):
            mounts |= {mount.mount_id: mount for mount in _read_mounts(proc, process.pid)}
            resources[process.pid] = _read_resources(proc, process.pid)
    return Container(proc, tree, resources, tuple(mounts.values()), _read_parent_ipc(proc, tree[0]))


def read_tree(proc: Path, first_pid: int) -> tuple[Process, ...]:
    """Read a process and its descendants, parents before children.

    Raises:
        FileNotFoundError, ProcessLookupError: no such process.
    """
    processes = read_processes(proc)
    if first_pid not in processes:
        raise ProcessLookupError(first_pid)
    return find_descendants(processes, first_pid)


def read_process(proc: Path, pid: int) -> Process:
    """Read /proc/PID/status."""
    fields = read_status(proc / str(pid))
    return Process(
        pid=pid,
        name=fields["Name"],
        state=fields["State"][0],
        parent_pid=int(fields["PPid"]),
        tracer_pid=int(fields["TracerPid"]),
        threads=int(fields["Threads"]),
        ids=frozenset(int(word) for kind in ("Uid", "Gid") for word in fields[kind].split()[:3]),
        pids=tuple(map(int, fields["NSpid"].split())),
        inner_session=int(fields["NSsid"].split()[-1]),
    )


def is_running(proc: Path, process: Process) -> bool:
    """Whether a process still exists and is not a zombie."""
    try:
        return not read_process(proc, process.pid).is_zombie
    except GONE:
        return False


def list_children(proc: Path, pid: int) -> list[int]:
    """List the children of a process's first thread."""
    return [int(word) for word in (proc / str(pid) / "task" / str(pid) / "children").read_text().split()]


def read_namespace(proc: Path, pid: int, kind: str) -> str:
    """Read the identity of one of a process's namespaces."""
    return os.readlink(proc / str(pid) / "ns" / kind)  # noqa: PTH115  (not a path)


def list_namespace(proc: Path, first_pid: int) -> list[int]:
    """Return the processes of a container, as numbered in `proc`: those of the PID namespace of its first one."""
    home = read_namespace(proc, first_pid, "pid")
    found = []
    for name in os.listdir(proc):  # noqa: PTH208  (names only)
        if name.isdigit():
            # A process that we have no permission to read is not the container's.
            with contextlib.suppress(*GONE, PermissionError):
                if read_namespace(proc, int(name), "pid") == home:
                    found.append(int(name))
    return found


def read_descriptors(proc: Path, pid: int) -> list[Link]:
    """Read the open descriptors of a process."""
    directory = proc / str(pid) / "fd"
    found = []
    for name in sorted(os.listdir(directory), key=int):  # noqa: PTH208
        with contextlib.suppress(*GONE):
            target = os.readlink(directory / name)  # noqa: PTH115
            found.append(Link(directory / name, target))
    return found


def read_descriptor_info(descriptor: Link) -> DescriptorInfo:
    """Read /proc/PID/fdinfo/NUMBER."""
    path = descriptor.path.parent.parent / "fdinfo" / descriptor.path.name
    lines = path.read_text(errors="replace").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return DescriptorInfo(int(fields["flags"], 8), int(fields["mnt_id"]), tuple(lines))


def read_processes(proc: Path) -> dict[int, Process]:
    """Read all processes of a procfs, by number."""
    found = {}
    for name in os.listdir(proc):  # noqa: PTH208  (names only: thousands of paths are not needed)
        if name.isdigit():
            try:
                found[int(name)] = read_process(proc, int(name))
            except GONE:
                continue
    return found


def find_descendants(processes: Mapping[int, Process], first_pid: int) -> tuple[Process, ...]:
    """Return a process and its descendants, parents first.

    Raises:
        KeyError: it is not among the processes.
    """
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent_pid, []).append(process)
    tree = [processes[first_pid]]
    for process in tree:  # grows while it is walked
        tree += sorted(children.get(process.pid, ()), key=lambda child: child.pid)
    return tuple(tree)


def _read_parent_ipc(proc: Path, first: Process) -> str:
    with contextlib.suppress(*GONE, PermissionError):
        return read_namespace(proc, first.parent_pid, "ipc")
    return ""


def _read_resources(proc: Path, pid: int) -> Resources:
    return Resources(read_namespaces(proc, pid), read_descriptors(proc, pid), _read_mapped_files(proc, pid))


def read_namespaces(proc: Path, pid: int) -> dict[str, str]:
    """Read the identities of a process's namespaces, without the kinds that this kernel does not have."""
    found = {}
    for kind in _NAMESPACES:
        with contextlib.suppress(FileNotFoundError):
            found[kind] = read_namespace(proc, pid, kind)
    if "mnt" not in found:  # the last kind: the process is a zombie now
        raise ProcessLookupError(pid)
    return found


def _read_mapped_files(proc: Path, pid: int) -> list[Link]:
    found: dict[tuple[str, str, str], Link] = {}
    for line in (proc / str(pid) / "maps").read_text(errors="replace").splitlines():
        match = _MAPPING.match(line)
        if match is None or not match[5]:
            continue
        addresses = "-".join(f"{int(word, 16):x}" for word in match[1].split("-"))  # map_files has no leading zeros
        path = proc / str(pid) / "map_files" / addresses
        found.setdefault((match[2] + match[3], match[4], match[5]), Link(path, match[5]))
    return list(found.values())


def _read_mounts(proc: Path, pid: int) -> list[MountInfo]:
    try:
        text = read_mountinfo(proc / str(pid) / "mountinfo")
    except OSError as problem:
        if problem.errno == errno.EINVAL:  # the process is a zombie now
            raise ProcessLookupError(pid) from problem
        raise
    return list(parse_mountinfo(text))
