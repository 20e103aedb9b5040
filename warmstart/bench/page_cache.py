"""Drop the page cache, so that a start reads all its files from the disk."""

from __future__ import annotations

import os
from pathlib import Path

from warmstart.core.errors import HostError

# See Documentation/admin-guide/sysctl/vm.rst of Linux: 1 drops clean pages of files. Cached names and inodes stay.
CONTROL = Path("/proc/sys/vm/drop_caches")
PAGES = "1"


def drop_page_cache(control: Path = CONTROL) -> None:
    """Write everything to the disks, and drop the page cache of the whole machine.

    Args:
        control: the kernel's file for it.

    Raises:
        HostError: the kernel refused.
    """
    os.sync()  # only clean pages are dropped
    try:
        control.write_text(PAGES)
    except OSError as error:
        raise HostError(
            f"cannot drop the page cache: {control}: {error.strerror}",
            hint="run the command as root, and outside of a container, or with a writable /proc/sys",
        ) from error
