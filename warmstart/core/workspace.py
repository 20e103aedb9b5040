"""Where a command keeps its files while it works: a directory of its own, gone at the end.

Workspaces lie where overlay mounts work and where there is room for a checkpoint: `$WARMSTART_TMPDIR`, or /var/tmp.
Each holds a lock file, locked for as long as its command lives, so that what a killed command left is known for what
it is. The lock file comes first and goes last: a directory without it is nobody's leftover.
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
    """The directory in which workspaces are made."""
    return Path(os.environ.get("WARMSTART_TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - made below it, with mkdtemp


def use_for_temporary_files() -> None:
    """Have libraries of this process, and programs that it starts, put their temporary files where workspaces are."""
    parent = str(workspace_parent())
    os.environ["TMPDIR"] = parent
    # Where it cannot be written, this alone would have tempfile take another place, without a word.
    tempfile.tempdir = parent


@contextlib.contextmanager
def open_workspace(purpose: str, *, keep_evidence: bool = False) -> Iterator[Path]:
    """A new directory, mode 0700, removed at the end.

    Args:
        purpose: becomes part of its name.
        keep_evidence: leave it when the block fails, and add where it is to the error's details.

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
                # Without its lock file, nobody takes it for a killed command's leftovers.
                (directory / LOCK).unlink(missing_ok=True)
                error.details = (*error.details, f"workspace kept for inspection: {directory}")
            raise
        finally:
            if (directory / LOCK).exists():
                remove_workspace(directory)


def sweep_workspaces() -> None:
    """Remove the workspaces of commands of this user that were killed: those that nobody holds locked."""
    for path in workspace_parent().glob(f"{PREFIX}*/{LOCK}"):
        # Everybody may make directories beside ours: what is not ours is not touched, whatever it is called.
        with contextlib.suppress(OSError):
            if path.parent.lstat().st_uid == os.geteuid():
                with path.open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_workspace(path.parent)


def remove_workspace(directory: Path) -> None:
    """Remove a workspace as far as possible; while something is left of it, so is its lock file."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                remove_directory(entry)
            elif entry.name != LOCK:
                entry.unlink()
        if [entry.name for entry in directory.iterdir()] == [LOCK]:
            remove_directory(directory)


def _make(purpose: str) -> tuple[Path, IO[str]]:
    """A new workspace, and its lock, which is held until it is closed."""
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
        # A sweep that came between the two took it for a leftover.
        if (directory / LOCK).exists():
            return directory, lock
        lock.close()
