"""Where a command keeps its files while it works: a directory of its own, gone at the end.

Workspaces lie where overlay mounts work and where there is room for a checkpoint: `$WARMSTART_TMPDIR`, or /var/tmp.
Each is locked for as long as its command lives, so that what a killed command left is known for what it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.errors import WarmstartError

PREFIX = "warmstart-"
LOCK = "lock"


def workspace_parent() -> Path:
    """The directory in which workspaces are made."""
    return Path(os.environ.get("WARMSTART_TMPDIR", "/var/tmp"))  # noqa: S108 - made below it, with mkdtemp


@contextlib.contextmanager
def open_workspace(purpose: str, *, keep_evidence: bool = False) -> Iterator[Path]:
    """A new directory, mode 0700, removed at the end.

    Args:
        purpose: becomes part of its name.
        keep_evidence: leave it when the block fails, and add where it is to the error's details.
    """
    sweep_workspaces()
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=workspace_parent()))
    with (directory / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        except WarmstartError as error:
            if keep_evidence:
                # Without its lock file, nobody takes it for a killed command's leftovers.
                (directory / LOCK).unlink()
                error.details = (*error.details, f"kept for you to look at: {directory}")
            raise
        finally:
            if (directory / LOCK).exists():
                shutil.rmtree(directory, ignore_errors=True)


def sweep_workspaces() -> None:
    """Remove the workspaces of commands that were killed: those that nobody holds locked."""
    for lock_path in workspace_parent().glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError), lock_path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_path.parent, ignore_errors=True)
