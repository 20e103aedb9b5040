"""What a container has changed in its root file system, as a layer of an image.

An overlay file system keeps that in its upper directory, and marks what was removed: a character device 0:0 stands for
a file that is no more, an attribute `trusted.overlay.opaque` for a directory of which nothing below shows. In a layer
both are files of certain names. Sources: Documentation/filesystems/overlayfs.rst of the kernel, and layer.md of
https://github.com/opencontainers/image-spec.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from warmstart.core.errors import ImageError
from warmstart.image.trees import TreeTar

_OCTAL = re.compile(r"\\([0-7]{3})")
_OPAQUE = "trusted.overlay.opaque"
# What the kernel only writes where it is told to make overlays with these features.
_FOREIGN = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


@dataclass(frozen=True)
class Changes:
    """Where a container's changes are.

    Attributes:
        upper: the upper directory of its root file system.
        mounts: where other file systems are mounted in it, without leading slashes.
    """

    upper: Path
    mounts: frozenset[str]


def find_changes(mountinfo: str) -> Changes | None:
    """Find them by the /proc/PID/mountinfo of a process of the container; None where its root is read-only.

    Raises:
        ImageError: its root is not an overlay.
    """
    mounts = {}
    for line in mountinfo.splitlines():
        words, _, rest = line.partition(" - ")
        mounts[_plain(words.split(" ")[4])] = rest.split(" ", 2)
    kind, _, options = mounts.pop("/", ["nothing", "", ""])
    if kind != "overlay":
        raise ImageError(f"the container's root file system is {kind}, and only of an overlay is known what it changed")
    given = dict(option.partition("=")[::2] for option in options.split(","))
    if "upperdir" not in given:
        return None
    return Changes(Path(_plain(given["upperdir"])), frozenset(point.lstrip("/") for point in mounts))


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def add_changes(tar: TreeTar, changes: Changes, left_out: Collection[str]) -> int:
    """Add all that was changed, but for what is at or below one of the paths `left_out`, and where mounts are.

    Returns:
        The bytes of the files.

    Raises:
        ImageError: the overlay has features that a layer cannot express.
    """
    skipped = {*changes.mounts, *left_out}
    size = 0
    for path, name in _walk(changes.upper, "", skipped):
        status = path.lstat()
        parent, _, last = name.rpartition("/")
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            tar.make_empty(f"{parent}/.wh.{last}".lstrip("/"))
            continue
        tar.add(path, name)
        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        if stat.S_ISDIR(status.st_mode) and _is_opaque(path):
            tar.make_empty(f"{name}/.wh..wh..opq")
    return size


def _walk(directory: Path, name: str, skipped: Collection[str]) -> Iterator[tuple[Path, str]]:
    for entry in sorted(directory.iterdir()):
        inner = f"{name}/{entry.name}".lstrip("/")
        if inner in skipped:
            continue
        yield entry, inner
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, inner, skipped)


def _is_opaque(directory: Path) -> bool:
    attributes = os.listxattr(directory)
    if found := [name for name in _FOREIGN if name in attributes]:
        raise ImageError(f"{directory}: an overlay with {found[0]} cannot be made a layer")
    return _OPAQUE in attributes and os.getxattr(directory, _OPAQUE) == b"y"
