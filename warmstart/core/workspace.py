"""Workspaces: a directory for the temporary files of one command, removed at its end.

They are below `$WARMSTART_TMPDIR` or /var/tmp, where overlay mounts must work and a checkpoint must fit. Each holds a
lock file that is locked while its command lives, so that leftovers of killed commands can be recognised. The lock file
comes first and goes last: a directory without it is not a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from warmstart.core.disk_space import explain_full_disk, reporting_full_disk
from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.removal import remove_directory

PREFIX = "warmstart-"
LOCK = "workspace.lock"
SPACE_HINT = "free some space there, or set WARMSTART_TMPDIR to a directory with more"


def workspace_parent() -> Path:
    """Return the parent directory of workspaces."""
    return Path(os.environ.get("WARMSTART_TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - made below it, with mkdtemp


def use_for_temporary_files() -> None:
    """Direct temporary files of this process and of the programs it starts to the parent directory of workspaces."""
    parent = str(workspace_parent())
    os.environ["TMPDIR"] = parent
    # The variable alone is not enough: tempfile silently takes another directory if this one is not writable.
    tempfile.tempdir = parent


@contextlib.contextmanager
def open_workspace(purpose: str, *, keep_evidence: bool = False) -> Iterator[Path]:
    """Yield a new directory with mode 0700, and remove it at the end.

    Args:
        purpose: part of its name.
        keep_evidence: keep it if the block fails, and add its path to the error's details.

    Raises:
        HostError: it cannot be made, or its disk is full.
    """
    sweep_workspaces()
    directory, lock = _make(purpose)
    with lock:
        try:
            with reporting_full_disk(directory, SPACE_HINT):
                yield directory
        except WarmstartError as error:
            if keep_evidence:
                # Without its lock file, it is not a killed command's leftover.
                (directory / LOCK).unlink(missing_ok=True)
                error.details = (*error.details, f"workspace kept for inspection: {directory}")
            raise
        finally:
            if (directory / LOCK).exists():
                remove_workspace(directory)


def sweep_workspaces() -> None:
    """Remove the workspaces of this user's killed commands: those without a lock."""
    for path in workspace_parent().glob(f"{PREFIX}*/{LOCK}"):
        # Other users may make directories with such names.
        with contextlib.suppress(OSError):
            if path.parent.lstat().st_uid == os.geteuid():
                with path.open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_workspace(path.parent)


def remove_workspace(directory: Path) -> None:
    """Remove a workspace as far as possible; its lock file goes last."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                remove_directory(entry)
            elif entry.name != LOCK:
                entry.unlink()
        if [entry.name for entry in directory.iterdir()] == [LOCK]:
            remove_directory(directory)


def _make(purpose: str) -> tuple[Path, IO[str]]:
    """Return a new workspace and its lock, held until it is closed."""
    parent = workspace_parent()
    while True:
        try:
            directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=parent))
            lock = (directory / LOCK).open("w")
        except OSError as error:
            if full := explain_full_disk(error, parent, SPACE_HINT):
                raise full from error
            hint = "set WARMSTART_TMPDIR to a writable directory with enough space"
            raise HostError(f"cannot create a directory in {parent}: {error.strerror}", hint=hint) from error
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A sweep between the two steps removed it as a leftover.
        if (directory / LOCK).exists():
            return directory, lock
        lock.close()
