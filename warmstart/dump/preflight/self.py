"""Find problems in a running application that only prevent a restore by the image itself.

The launcher's CRIU restores without privileges, in the container's own namespaces. It cannot choose process numbers,
become another user, or restore files that are not the application's. Source: `pstree_sort_births` of
`launcher/criu/restore-without-capabilities.patch`, and `launcher/src/seed.c`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from warmstart.dump.edit.environment import FIRST
from warmstart.dump.preflight.check import reading
from warmstart.dump.preflight.finding import Finding, deduplicate, error, warning
from warmstart.dump.preflight.volumes import find_mount_points
from warmstart.dump.proc.container import (
    GONE,
    Container,
    Link,
    Process,
    is_below,
    read_container,
    read_descriptor_info,
    strip_deleted,
)
from warmstart.dump.proc.status import read_limits, read_status
from warmstart.recipe.model import VolumeKind, VolumeMount

# Permissions of others that an access needs.
_NEEDED = {os.O_RDONLY: 0o4, os.O_WRONLY: 0o2, os.O_RDWR: 0o6}
_ACL = "system.posix_acl_access"
# In these directories, and in volumes that are new in each pod, the launcher keeps only the files of the application's
# user.
_SEEDED = ("/tmp", "/var/tmp", "/run")  # noqa: S108  (directories in the container)


def check_launched(
    proc: Path, first_pid: int, volumes: Collection[VolumeMount] = (), *, becomes_others: bool = False
) -> tuple[Finding, ...]:
    """Check an application that the launcher runs.

    Args:
        proc: a procfs; nothing is read outside it.
        first_pid: PID of the application's first process in that procfs.
        volumes: its volumes.
        becomes_others: whether it may become other users, and have files of theirs.

    Raises:
        AppError: it has ended.
        HostError: the caller may not inspect its processes.
    """
    with reading(proc, first_pid):
        container = read_container(proc, first_pid)
        return deduplicate(
            [
                *_check_creation_order(container),
                *_check_limits(container),
                *(() if becomes_others else _check_users(container)),
                *(() if becomes_others else _check_seed(container, volumes)),
                *(() if becomes_others else _check_permissions(container)),
                *_check_shared_memory(container),
            ]
        )


def _check_creation_order(container: Container) -> Iterator[Finding]:
    """Check the order of numbers: they can only increase, and all processes are created before all threads."""
    last = max(container.processes, key=lambda process: process.pids[-1])
    for process in container.processes:
        for thread in _read_threads(container, process):
            if process.pids[-1] < thread < last.pids[-1]:
                yield error(
                    "thread-before-process",
                    process,
                    f"It made its thread {thread} before process {last.pids[-1]} ({last.name}) was started, and an "
                    "image that restores itself can only make processes first.",
                    "Start the program directly, without npm or a wrapper that has threads, or let it fork before "
                    "it starts threads.",
                )
                break


def _check_limits(container: Container) -> Iterator[Finding]:
    """Check that all processes may have the descriptor of the environment (`dump/edit/environment.py`)."""
    used = {int(link.path.name) for _, link in container.each_descriptor()}
    number = next(number for number in range(FIRST, FIRST + len(used) + 1) if number not in used)
    for process in container.processes:
        with contextlib.suppress(*GONE):
            limit, _ = read_limits(container.proc / str(process.pid)).get("open files", ("", ""))
            if limit.isdigit() and int(limit) <= number:
                yield error(
                    "few-descriptors",
                    process,
                    f"It may have {limit} descriptors (RLIMIT_NOFILE), and an image that restores itself gives it "
                    f"one with the number {number}.",
                    "Raise the limit, or set it after the restore.",
                )


def _read_threads(container: Container, process: Process) -> list[int]:
    """Return a process's threads by their numbers in the container; none if it has ended."""
    tasks, found = container.proc / str(process.pid) / "task", []
    with contextlib.suppress(*GONE):
        for name in os.listdir(tasks):  # noqa: PTH208  (names only)
            with contextlib.suppress(*GONE):
                found.append(int(read_status(tasks / name)["NSpid"].split()[-1]))
    return sorted(found)


def _check_users(container: Container) -> Iterator[Finding]:
    for process in container.processes[1:]:
        if process.ids != container.first.ids and process.pid in container.resources:
            yield error(
                "another-user",
                process,
                "It runs as another user or group than the first process, and an image that restores itself "
                "cannot change users.",
                "Let it start as root, with the capabilities of an ordinary pod; or run all processes as one user.",
            )


def _check_seed(container: Container, volumes: Collection[VolumeMount]) -> Iterator[Finding]:
    """Check that open files in the seeded directories belong to the application's user; others are not restored."""
    owners = {(container.proc / str(container.first.pid)).stat().st_uid}
    points = find_mount_points(container, [each for each in volumes if each.volume.kind is VolumeKind.EMPTY_DIR])
    directories = [*_SEEDED, *points]
    for process, link in _each_file(container):
        if not any(is_below(link.target, directory) for directory in directories):
            continue
        try:
            status = os.stat(link.path)  # noqa: PTH116  (a kernel link)
        except (*GONE, PermissionError):
            continue
        if status.st_uid not in owners:
            yield error(
                "seed-of-others",
                process,
                f"It has {link.target} open, a file of another user. An image that restores itself does not keep it.",
                "Put the file into the base image, outside of /tmp, /var/tmp, /run and volumes, or give it that user.",
            )


def _check_permissions(container: Container) -> Iterator[Finding]:
    """Check that the application's user may open the files of the image that are in use, such as running programs.

    The launcher unlocks files of that user (`dump/edit/locked_files.py`).
    """
    user, groups = _read_user(container)
    if user == 0:
        return
    for process, link in _each_file(container):
        path, deleted = strip_deleted(link.target)
        mount = container.mount_of(path) if path.startswith("/") and not deleted else None
        if mount is None or mount.mount_point != "/":
            continue
        with contextlib.suppress(*GONE, PermissionError):
            status = os.stat(link.path)  # noqa: PTH116  (a kernel link)
            is_open = stat.S_ISREG(status.st_mode) and _may_open(link, status, user, groups)
            if stat.S_ISREG(status.st_mode) and not is_open and link.is_unchanged():
                yield error(
                    "file-not-readable",
                    process,
                    f"It has {path} in use, and its user could not open the file again (mode "
                    f"{stat.S_IMODE(status.st_mode):04o}). An image that restores itself has no other rights.",
                    f"Allow it in the base image (chmod a+r {path}), or restore with the runtime only.",
                )


def _read_user(container: Container) -> tuple[int, frozenset[int]]:
    """Return the user of the application, and all of its groups."""
    fields = read_status(container.proc / str(container.first.pid))
    groups = frozenset(map(int, (fields["Gid"].split()[1], *fields["Groups"].split())))
    return int(fields["Uid"].split()[1]), groups


def _may_open(link: Link, status: os.stat_result, user: int, groups: frozenset[int]) -> bool:
    if status.st_uid == user or _ACL in os.listxattr(link.path):
        return True
    granted = status.st_mode >> 3 if status.st_gid in groups else status.st_mode
    access = read_descriptor_info(link).flags & os.O_ACCMODE if link.path.parent.name == "fd" else os.O_RDONLY
    return not _NEEDED[access] & ~granted if access in _NEEDED else True


def _each_file(container: Container) -> Iterator[tuple[Process, Link]]:
    yield from container.each_descriptor()
    yield from container.each_mapped_file()


def _check_shared_memory(container: Container) -> Iterator[Finding]:
    for process, link in container.each_mapped_file():
        if link.target.startswith("/SYSV"):
            yield warning(
                "sysv-shm-self",
                process,
                "It uses System V shared memory. In an image that restores itself its processes share it as before, "
                "but it has no key and no id after the restore, so that shmat, shmctl and shmdt fail.",
                "Nothing is to be done for PostgreSQL, which only attaches it at its start. Otherwise use POSIX shared "
                "memory or mmap, or restore with the runtime.",
            )
