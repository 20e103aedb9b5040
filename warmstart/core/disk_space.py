"""Report a full disk as one kind of error, for our own writes and for programs that mention it in their messages."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from warmstart.core.errors import (
    ArchiveError,
    CheckpointError,
    ClusterError,
    EngineError,
    HostError,
    ImageError,
    WarmstartError,
)
from warmstart.core.mountinfo import parse_mountinfo, read_mountinfo
from warmstart.core.process import ProgramError

REASONS = {errno.ENOSPC: "no space left", errno.EDQUOT: "the disk quota is exceeded"}
# Kinds of errors that carry the words of programs on this machine. A cluster's node is another machine, and an
# application's log or a registry's answer may say the same of something else.
OF_PROGRAMS = (ProgramError, EngineError, CheckpointError, ImageError, ArchiveError, HostError)
# strerror(3) and Go's syscall package write them alike but for the case; a path comes right before, if at all.
_REPORTED = re.compile(
    r"(?:(?P<path>/[^\s:'\"]+)['\"]?: )?(?P<reason>no space left on device|disk quota exceeded)", re.IGNORECASE
)
# These kernel interfaces use the same error numbers for limits of their own.
_NO_DISKS = ("/proc/", "/sys/", "/dev/")


class NoSpaceError(HostError):
    """A disk of this machine is full."""


@contextlib.contextmanager
def reporting_full_disk(place: Path, hint: str) -> Iterator[None]:
    """Raise NoSpaceError in place of any error in the block that a full disk caused.

    Args:
        place: directory or file that the block writes to, named if the error itself names no path.
        hint: advice for the user.
    """
    try:
        yield
    except Exception as error:
        full = explain_full_disk(error, place, hint)
        if full is None:
            raise
        raise full from error


def explain_full_disk(error: BaseException, place: Path | None = None, hint: str = "") -> NoSpaceError | None:
    """Return the error to show if a full disk caused `error`; None if it did not, or is already reported.

    Args:
        error: the exception, with its causes.
        place: directory or file that was written to, if known.
        hint: advice for the user.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    # An exception that is raised from its own cause makes a circle.
    while cause is not None and not isinstance(cause, NoSpaceError) and id(cause) not in seen:
        seen.add(id(cause))
        if (found := _find_reason(cause)) is not None:
            reason, path = found
            # A program may mean a path in a root of its own, as those do that unpack layers.
            if path and place and not isinstance(cause, OSError) and not path.is_relative_to(place):
                path = place
            details = (error.brief, *error.details) if isinstance(error, WarmstartError) else ()
            return NoSpaceError(
                _describe(reason, path or place), details=details, hint=hint or "free some space on that disk"
            )
        cause = cause.__cause__
    return None


def _find_reason(error: BaseException) -> tuple[str, Path | None] | None:
    """Return the reason and the path, if one is named."""
    if isinstance(error, OSError) and error.errno in REASONS:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        return None if path.startswith(_NO_DISKS) else (REASONS[error.errno], Path(path) if path else None)
    if not isinstance(error, OF_PROGRAMS) or isinstance(error, ClusterError):
        return None
    for text in (getattr(error, "stderr", ""), error.brief, *error.details):
        if (match := _REPORTED.search(text)) and not (match["path"] or "").startswith(_NO_DISKS):
            number = errno.EDQUOT if "quota" in match["reason"].lower() else errno.ENOSPC
            return REASONS[number], Path(match["path"]) if match["path"] else None
    return None


def _describe(reason: str, path: Path | None) -> str:
    if path is None:
        return f"{reason} on one of this machine's disks"
    device = _find_device(path)
    return f"cannot write {path}: {reason} on {device}" if device else f"cannot write {path}: {reason}"


def _find_device(path: Path) -> str:
    """Describe the file system of a path; empty if it is not known."""
    with contextlib.suppress(OSError):
        there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
        number = there.stat().st_dev
        for mount in parse_mountinfo(read_mountinfo(Path("/proc/self/mountinfo"))):
            if mount.device == number:
                return f"{mount.source} ({mount.kind}, mounted on {mount.mount_point})"
    return ""
