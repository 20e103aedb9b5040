"""Find inotify and fanotify watches of a container that would prevent a dump.

CRIU must find a path for each watched inode (`check_open_handle` in `criu/fsnotify.c` of
https://github.com/checkpoint-restore/criu, 4.2). It tries the file handle from the kernel, but containers run on
overlayfs, and its handles cannot be opened. Then CRIU searches a few directories (`criu/irmap.c`), and fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from warmstart.core.linux import open_by_handle
from warmstart.dump.preflight.finding import Finding, error
from warmstart.dump.proc.container import GONE, Container, Process, is_below, open_below_root, read_descriptor_info

_WATCH = re.compile(
    r"(?:inotify wd:\w+|fanotify) ino:(\w+) sdev:(\w+) .*?"
    r"(?:fhandle-bytes:(\w+) fhandle-type:(\w+) f_handle:(\w+))?$"
)
_MINOR_BITS = 20  # in the kernel's internal dev_t, used for sdev
# `hints` in criu/irmap.c; CRIU also checks the root directory itself, but nothing below it.
_SEARCHED = (
    "/etc",
    "/var/spool",
    "/var/log",
    "/usr/share/dbus-1/services",
    "/usr/share/dbus-1/system-services",
    "/var/lib/polkit-1/localauthority",
    "/usr/share/polkit-1/actions",
    "/lib/udev",
)
_MAX_ENTRIES = 20_000  # directory entries to search for the name of a watched file
_FIX = "Switch off file watching for the build, for example automatic reloading of the configuration."


@dataclass(frozen=True)
class _Watch:
    """A watched inode: device and inode number as in stat(2), and the kernel's file handle."""

    device: int
    inode: int
    handle_type: int
    handle: bytes


def find_in_watches(container: Container) -> Iterator[Finding]:
    """Check the inotify and fanotify watches of the container's processes."""
    lost: dict[_Watch, Process] = {}
    for process, descriptor in container.each_descriptor():
        if descriptor.target not in ("anon_inode:inotify", "anon_inode:[fanotify]"):
            continue
        try:
            for watch in _parse_watches(read_descriptor_info(descriptor).lines):
                if not _opens_by_handle(container, process, watch):
                    lost.setdefault(watch, process)
        except GONE:
            continue
    paths = _find_paths(container, {(watch.device, watch.inode) for watch in lost}) if lost else {}
    for watch, process in lost.items():
        path = paths.get((watch.device, watch.inode), "")
        if path == "/" or any(is_below(path, directory) for directory in _SEARCHED):
            continue
        what = f"It watches {path or f'a file (inode {watch.inode})'} for changes, which CRIU cannot dump on overlayfs."
        yield error("file-watch", process, what, _FIX)


def _parse_watches(lines: tuple[str, ...]) -> Iterator[_Watch]:
    for line in lines:
        match = _WATCH.match(line)
        if match is not None:
            inode, device = int(match[1], 16), int(match[2], 16)
            number = os.makedev(device >> _MINOR_BITS, device & ((1 << _MINOR_BITS) - 1))
            yield _Watch(number, inode, int(match[4] or "0", 16), bytes.fromhex(match[5] or ""))


def _opens_by_handle(container: Container, process: Process, watch: _Watch) -> bool:
    """Whether the watched inode opens by its handle in a mount of its filesystem, as in CRIU's `alloc_openable`."""
    mounts = [mount for mount in container.mounts if mount.device == watch.device and watch.handle]
    for pid in {container.first.pid, process.pid}:  # one may see more if the other has called chroot or unshare
        for mount in mounts:
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY
                with open_below_root(container.proc, pid, mount.mount_point, flags) as directory:
                    if _open_by_handle_works(directory, watch):
                        return True
            except PermissionError:
                raise
            except OSError:  # gone, or planted links: ENOENT, ENOTDIR, ELOOP
                continue
    return False


def _open_by_handle_works(directory: int, watch: _Watch) -> bool:
    """Try open_by_handle_at(2); needs CAP_DAC_READ_SEARCH."""
    try:
        os.close(open_by_handle(directory, watch.handle_type, watch.handle, os.O_PATH))
    except OSError:
        return False
    return True


def _find_paths(container: Container, inodes: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Find paths of inodes in the container: first in the directories that CRIU searches, then in a limited walk."""
    found: dict[tuple[int, int], str] = {}
    for start in (*_SEARCHED, "/"):
        for path in _walk(container, start):
            try:
                with open_below_root(container.proc, container.first.pid, path, os.O_PATH | os.O_NOFOLLOW) as opened:
                    info = os.fstat(opened)
            except OSError:
                continue
            found.setdefault((info.st_dev, info.st_ino), path)
            if inodes <= found.keys():
                return found
    return found


def _walk(container: Container, start: str) -> Iterator[str]:
    """Yield paths below a directory, breadth first, without other mounts, up to `_MAX_ENTRIES`."""
    limit = _MAX_ENTRIES
    mount_points = {mount.mount_point for mount in container.mounts if mount.mount_point != start}
    pending = [start]
    for path in pending:  # grows while it is walked
        yield path
        try:
            entries = _list_directory(container, path)
        except OSError:
            continue
        for name, is_directory in entries:
            below = f"{path.rstrip('/')}/{name}"
            if limit <= 0 or below in mount_points:
                continue
            limit -= 1
            if is_directory:
                pending.append(below)
            else:
                yield below


def _list_directory(container: Container, path: str) -> list[tuple[str, bool]]:
    """Return the entries of a directory in the container: name, and whether it is a directory."""
    opening = open_below_root(container.proc, container.first.pid, path, os.O_RDONLY | os.O_DIRECTORY)
    with opening as directory, os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
