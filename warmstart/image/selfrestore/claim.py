"""Move the launcher's checkpoint of a build to a directory that no container has ever seen.

Only the launcher can write to the source (launcher/src/mount_namespaces.c), and no process of the container is left by
then. The files are still checked like an archive from anywhere: known names, known types, one link, within limits.
Names are looked up only in open directories, and no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import DEFAULT_LIMITS, Limits
from warmstart.dump.archive.tarball import quoted

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*\.img")
_KINDS = {
    "manifest": stat.S_IFREG,
    "started": stat.S_IFREG,
    "dump.log": stat.S_IFREG,
    "env": stat.S_IFLNK,
    "checkpoint": stat.S_IFDIR,
    "seed": stat.S_IFDIR,
}
_REQUIRED = ("manifest", "checkpoint")


def claim_state(state: Path, into: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Move the launcher's files to a new directory with mode 0700.

    Owners and modes are kept. `seed` is moved unchecked: check it when it is read.

    Args:
        state: the container's state directory.
        into: the new directory, on the same filesystem; only its parent exists.
        limits: limits on the checkpoint; `json_bytes` applies to the manifest.

    Raises:
        CheckpointError: it holds something that the launcher does not write.
    """
    into.mkdir(mode=0o700)
    with _open(state) as source, _open(into) as target:
        names = os.listdir(source)  # noqa: PTH208  (an open directory)
        for name in names:
            _check(name, _KINDS.get(name, 0), os.stat(name, dir_fd=source, follow_symlinks=False))
        if missing := [name for name in _REQUIRED if name not in names]:
            _refuse(f"{missing[0]} is missing")
        if os.stat("manifest", dir_fd=source, follow_symlinks=False).st_size > limits.json_bytes:
            _refuse(f"its manifest is larger than {limits.json_bytes} bytes")
        for name in names:
            if name != "checkpoint":
                os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        _claim_checkpoint(source, target, limits)


def _claim_checkpoint(source: int, target: int, limits: Limits) -> None:
    os.mkdir("checkpoint", 0o700, dir_fd=target)
    with _open("checkpoint", source) as images, _open("checkpoint", target) as claimed:
        names = os.listdir(images)  # noqa: PTH208
        if len(names) > limits.members:
            _refuse(f"the checkpoint has {len(names)} files; the limit is {limits.members}")
        total_bytes = 0
        for name in names:
            status = os.stat(name, dir_fd=images, follow_symlinks=False)
            _check(name, stat.S_IFREG if _IMAGE.fullmatch(name) else 0, status)
            total_bytes += status.st_size
        if total_bytes > limits.total_bytes:
            _refuse(f"the checkpoint has {total_bytes} bytes; the limit is {limits.total_bytes}")
        for name in names:
            os.rename(name, name, src_dir_fd=images, dst_dir_fd=claimed)
        status = os.fstat(images)
        os.fchown(claimed, status.st_uid, status.st_gid)


def _check(name: str, kind: int, status: os.stat_result) -> None:
    if not kind:
        _refuse(f"{quoted(name)} is not a file of the launcher")
    if stat.S_IFMT(status.st_mode) != kind:
        _refuse(f"{quoted(name)} has the wrong file type")
    if kind != stat.S_IFDIR and status.st_nlink != 1:
        _refuse(f"{quoted(name)} has more than one hard link")


def _refuse(problem: str) -> NoReturn:
    raise CheckpointError(f"cannot use the launcher's checkpoint: {problem}")


@contextmanager
def _open(name: str | Path, directory: int | None = None) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)
