"""Find problems in a running application that only prevent a restore by the image itself.

The launcher's CRIU restores without privileges, in the container's own namespaces. It cannot choose process numbers,
become another user, or restore files that are not the application's. Source: `pstree_sort_births` of
`launcher/criu/restore-without-capabilities.patch`, and `launcher/src/seed.c`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from warmstart.dump.preflight.check import reading
from warmstart.dump.preflight.finding import Finding, deduplicate, error
from warmstart.dump.preflight.volumes import find_mount_points
from warmstart.dump.proc.container import (
    GONE,
    Container,
    Link,
    Process,
    is_below,
    read_container,
)
from warmstart.recipe.model import VolumeKind, VolumeMount

# In these directories, and in volumes that are new in each pod, the launcher keeps only the files of the application's
# user.
_SEEDED = ("/tmp", "/var/tmp", "/run")  # noqa: S108  (directories in the container)


def check_launched(proc: Path, first_pid: int, volumes: Collection[VolumeMount] = ()) -> tuple[Finding, ...]:
    """Check an application that the launcher runs.

    Args:
        proc: a procfs; nothing is read outside it.
        first_pid: PID of the application's first process in that procfs.
        volumes: its volumes.

    Raises:
        AppError: it has ended.
        HostError: the caller may not inspect its processes.
    """
    with reading(proc, first_pid):
        container = read_container(proc, first_pid)
        return deduplicate(
            [
                *_check_creation_order(container),
                *_check_users(container),
                *_check_seed(container, volumes),
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


def _read_threads(container: Container, process: Process) -> list[int]:
    """Return a process's threads by their numbers in the container; none if it has ended."""
    tasks, found = container.proc / str(process.pid) / "task", []
    with contextlib.suppress(*GONE):
        for name in os.listdir(tasks):  # noqa: PTH208  (names only)
            with contextlib.suppress(*GONE):
                status = (tasks / name / "status").read_text(errors="replace")
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
                found.append(int(numbers.split()[-1]))
    return sorted(found)


def _check_users(container: Container) -> Iterator[Finding]:
    for process in container.processes[1:]:
        if process.ids != container.first.ids and process.pid in container.resources:
            yield error(
                "another-user",
                process,
                "It runs as another user or group than the first process, and an image that restores itself "
                "cannot change users.",
                "Run all processes as one user, or restore with the runtime only.",
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


def _each_file(container: Container) -> Iterator[tuple[Process, Link]]:
    yield from container.each_descriptor()
    yield from container.each_mapped_file()


def _check_shared_memory(container: Container) -> Iterator[Finding]:
    for process, link in container.each_mapped_file():
        if link.target.startswith("/SYSV"):
            yield error(
                "sysv-shm-self",
                process,
                "It uses System V shared memory, and an image that restores itself cannot restore it.",
                "Use POSIX shared memory or mmap (PostgreSQL: shared_memory_type=mmap), or restore with the runtime.",
            )
