"""Parse /proc/PID/mountinfo; format: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# seq_path() of the kernel writes space, tab, line feed and backslash as three octal digits.
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class MountInfo:
    """A mount.

    Attributes:
        mount_id: its number in the mount namespace.
        device: device number of its files; see stat(2).
        root: directory of the file system that is its root.
        mount_point: its path, relative to the root of the process.
        kind: type of the file system, such as `ext4`.
        source: its source, such as a block device, as the file system names it.
        super_options: options of the file system, separated by commas.
    """

    mount_id: int
    device: int
    root: str
    mount_point: str
    kind: str
    source: str
    super_options: str


def parse_mountinfo(text: str) -> Iterator[MountInfo]:
    """Yield the mounts in order; later ones can hide earlier ones."""
    # A name may contain other line separators, which the kernel does not escape and `splitlines` would split at.
    for line in text.removesuffix("\n").split("\n") if text else ():
        # Optional fields end with a hyphen. Names have their blanks escaped, so they cannot look like it.
        before, _, after = line.partition(" - ")
        number, _, device, root, mount_point = before.split(" ")[:5]
        kind, source, super_options = after.split(" ", 2)
        major, minor = map(int, device.split(":"))
        yield MountInfo(
            int(number),
            os.makedev(major, minor),
            unescape(root),
            unescape(mount_point),
            unescape(kind),
            unescape(source),
            super_options,
        )


def read_mountinfo(path: Path) -> str:
    """Return the text of a mountinfo file, with surrogate escapes for bytes that are not UTF-8 as in `os.fsdecode`.

    Raises:
        OSError: it cannot be read.
    """
    # `read_text` would turn a carriage return in a name into the end of a line.
    return os.fsdecode(path.read_bytes())


def unescape(text: str) -> str:
    """Resolve the octal escapes in a name."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
