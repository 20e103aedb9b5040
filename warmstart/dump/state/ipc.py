"""Read the System V and POSIX objects of a container's IPC namespace. Sources: proc_sysvipc(5), mq_overview(7)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.linux import CLONE_NEWIPC, enter_namespace
from warmstart.core.mountinfo import parse_mountinfo, read_mountinfo
from warmstart.core.own_thread import run_in_own_thread
from warmstart.dump.proc.container import open_below_root, read_namespace
from warmstart.dump.proc.status import read_text
from warmstart.dump.state.model import Facts

#: The columns of each file in /proc/sysvipc that do not change by use; the first three are key, number and permissions.
COLUMNS = {
    "msg": ("key", "msqid", "perms", "uid", "gid"),
    "sem": ("key", "semid", "perms", "nsems", "uid", "gid"),
    "shm": ("key", "shmid", "perms", "size", "uid", "gid"),
}
TITLES = {"msg": "message queues", "sem": "semaphores", "shm": "shared memory"}
_SYSVIPC = "/proc/sysvipc"


def read_ipc(proc: Path, pid: int, own_pid: int) -> Facts:
    """Read the objects in the IPC namespace of a process, unless it is that of this process.

    Args:
        proc: a procfs.
        pid: the process in that procfs.
        own_pid: the same in this process's PID namespace.

    Raises:
        OSError: the process has ended, or may not be entered.
    """
    if read_namespace(Path("/proc"), own_pid, "ipc") == read_namespace(Path("/proc"), os.getpid(), "ipc"):
        return {}
    facts = {TITLES[kind]: text for kind, text in run_in_own_thread(lambda: _read_tables(own_pid)).items()}
    return {**facts, "POSIX message queues": ",".join(sorted(_list_queues(proc, pid)))}


def _read_tables(own_pid: int) -> dict[str, str]:
    enter_namespace(Path(f"/proc/{own_pid}/ns/ipc"), CLONE_NEWIPC)
    return {kind: parse_table(read_text(f"{_SYSVIPC}/{kind}"), kind) for kind in COLUMNS}


def parse_table(text: str, kind: str) -> str:
    """Describe the objects in a file of /proc/sysvipc."""
    head, *lines = text.splitlines()
    indices = [head.split().index(name) for name in COLUMNS[kind]]
    rows = (line.split() for line in lines)
    return ",".join(sorted(" ".join(row[index] for index in indices) for row in rows))


def _list_queues(proc: Path, pid: int) -> Iterator[str]:
    """List the POSIX message queues below the mount points of their file system."""
    for mount in parse_mountinfo(read_mountinfo(proc / str(pid) / "mountinfo")):
        if mount.kind == "mqueue":
            with contextlib.suppress(OSError):  # gone, or hidden by links
                flags = os.O_RDONLY | os.O_DIRECTORY
                with open_below_root(proc, pid, mount.mount_point, flags) as directory:
                    if os.fstat(directory).st_dev == mount.device:
                        yield from (os.fsencode(name).decode(errors="replace") for name in os.listdir(directory))  # noqa: PTH208
