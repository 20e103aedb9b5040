"""Convert the changes in a container's root filesystem to an image layer.

overlayfs keeps changes in its upper directory and marks removals: a character device 0:0 stands for a removed file, the
attribute `trusted.overlay.opaque` for a directory that hides the lower ones. In a layer both are files with special
names. Sources: Documentation/filesystems/overlayfs.rst of the kernel, and layer.md of
https://github.com/opencontainers/image-spec.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from warmstart.core.errors import ImageError
from warmstart.core.mountinfo import parse_mountinfo, unescape
from warmstart.image.tree_tar import Entry, TreeTar, open_entry, walk
from warmstart.image.whiteouts import OPAQUE, mark_removed

_OCTAL = re.compile(r"\\([0-7]{3})")
_BLOCK_BYTES = 512  # unit of st_blocks
_OPAQUE = "trusted.overlay.opaque"
# Written by the kernel only if these overlayfs features are enabled.
_FOREIGN = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


@dataclass(frozen=True)
class Changes:
    """Location of a container's changes.

    Attributes:
        upper: the upper directory of its root filesystem.
        mounts: mount points inside it, without leading slashes.
    """

    upper: Path
    mounts: frozenset[str]


def find_changes(mountinfo: str, root: str = "/") -> Changes | None:
    """Find the changes from a /proc/PID/mountinfo; None if the container's root is read-only.

    The process must be out of the container's control: whoever can make a mount namespace can also make mounts in
    it that look like a container's root, with an upper directory of any name.

    Args:
        mountinfo: its text.
        root: the container's root filesystem as that process sees it.

    Raises:
        ImageError: the root is not an overlay.
    """
    mounts = {}
    for mount in parse_mountinfo(mountinfo):
        point = mount.mount_point
        if point == root or point.startswith(f"{root.rstrip('/')}/"):
            mounts[point.removeprefix(root).lstrip("/")] = mount
    top = mounts.pop("", None)
    if top is None or top.kind != "overlay":
        kind = top.kind if top else "nothing"
        raise ImageError(f"cannot list the container's changed files: its root filesystem is {kind}, not overlayfs")
    options = dict(option.partition("=")[::2] for option in top.super_options.split(","))
    if "upperdir" not in options:
        return None
    return Changes(Path(unescape(options["upperdir"])), frozenset(mounts))


def add_changes(tar: TreeTar, changes: Changes, left_out: Collection[str]) -> int:
    """Add all changes, except those at or below the paths `left_out` and the mount points.

    Returns:
        The size of the files in bytes.

    Raises:
        ImageError: the overlay has features that a layer cannot express, or something in it changed meanwhile.
    """
    skipped = {*changes.mounts, *left_out}
    size = 0
    with open_entry(changes.upper) as upper:
        for entry, name in walk(upper, "", skipped):
            if is_whiteout(entry):
                tar.make_empty(mark_removed(name))
                continue
            tar.add(entry, name)
            size += entry.status.st_size if entry.kind == stat.S_IFREG else 0
            if entry.kind == stat.S_IFDIR and is_opaque(entry, name):
                tar.make_empty(f"{name}/{OPAQUE}")
    return size


def find_sparse(changes: Changes, left_out: Collection[str], limit_bytes: int) -> dict[str, int]:
    """Return the files with more than `limit_bytes` of holes, and the size of these."""
    found = {}
    with open_entry(changes.upper) as upper:
        for entry, name in walk(upper, "", {*changes.mounts, *left_out}):
            holes_bytes = entry.status.st_size - entry.status.st_blocks * _BLOCK_BYTES
            if entry.kind == stat.S_IFREG and holes_bytes > limit_bytes:
                found[name] = holes_bytes
    return found


def changes_nothing(changes: Changes, left_out: Collection[str]) -> bool:
    """Tell whether there are no changes but those that the runtime makes in each container of the image.

    These are directories on the way to its mount points, and the link `etc/mtab` (server/container_create.go of CRI-O).
    Arguments as for `add_changes`.
    """
    parents = {str(parent) for mount in changes.mounts for parent in PurePosixPath(mount).parents}
    with open_entry(changes.upper) as upper:
        found = walk(upper, "", {*changes.mounts, *left_out})
        return all(_is_by_runtime(entry, name, parents) for entry, name in found)


def _is_by_runtime(entry: Entry, name: str, parents: Collection[str]) -> bool:
    if entry.kind == stat.S_IFLNK:
        return name == "etc/mtab" and os.readlink("", dir_fd=entry.fd) == "/proc/mounts"
    status = entry.status
    is_plain = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)
    return entry.kind == stat.S_IFDIR and is_plain and name in parents and not is_opaque(entry, name)


def is_whiteout(entry: Entry) -> bool:
    """Whether an entry of the upper directory stands for a removed file."""
    return entry.kind == stat.S_IFCHR and entry.status.st_rdev == 0


def is_opaque(directory: Entry, name: str) -> bool:
    """Whether a directory of the upper directory hides the lower ones.

    Raises:
        ImageError: it has an attribute that a layer cannot express.
    """
    attributes = directory.read_attributes()
    if found := [each for each in _FOREIGN if each in attributes]:
        raise ImageError(f"{name}: cannot convert to a layer: overlayfs uses {found[0]}")
    return attributes.get(_OPAQUE) == b"y"
