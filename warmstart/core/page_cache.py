"""The page cache of single files."""

from __future__ import annotations

import os
from pathlib import Path


def evict(path: Path) -> None:
    """Write a file to the disk, and remove its pages from the page cache, except those that a process has mapped."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)  # only clean pages are removed
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
