"""Layers of directory trees, with owners, links and times as they are.

What gives privileges is left behind: setuid and setgid bits, file capabilities, device nodes. So are sockets, which no
tar can hold. Extended attributes are written as containers/storage and containerd read them, in records
`SCHILY.xattr.NAME` (pax_headers(5) of star).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from warmstart.image.compose import LayerWriter

_CHUNK_BYTES = 1 << 20
_MODE_BITS = 0o1777
_NOT_KEPT = ("trusted.", "security.")


class TreeTar:
    """A tar that is written entry by entry."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._seen: dict[tuple[int, int], str] = {}

    def make_directory(self, name: str) -> None:
        """Add a directory of root's that all may read, without a time."""
        entry = tarfile.TarInfo(f"{name}/")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(entry)

    def make_empty(self, name: str) -> None:
        """Add an empty file of root's, without a time."""
        entry = tarfile.TarInfo(name)
        entry.mode = 0o644
        self._tar.addfile(entry)

    def copy_program(self, path: Path, name: str) -> None:
        """Add a file with its content and whether it can be run, and nothing else of what it is."""
        entry = tarfile.TarInfo(name)
        status = path.stat()
        entry.mode, entry.size = 0o755 if status.st_mode & 0o111 else 0o644, status.st_size
        with path.open("rb") as content:
            self._tar.addfile(entry, content)

    def add(self, path: Path, name: str) -> None:
        """Add a file, link, FIFO or directory as it is; a directory without what is in it."""
        status = path.lstat()
        entry = tarfile.TarInfo(name)
        entry.mode, entry.uid, entry.gid = status.st_mode & _MODE_BITS, status.st_uid, status.st_gid
        entry.mtime = int(status.st_mtime)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115  (text, not a path of ours)
        elif kind == stat.S_IFDIR:
            entry.type = tarfile.DIRTYPE
        elif kind == stat.S_IFIFO:
            entry.type = tarfile.FIFOTYPE
        elif kind != stat.S_IFREG:
            return
        inode = (status.st_dev, status.st_ino)
        if kind != stat.S_IFDIR and status.st_nlink > 1 and inode in self._seen:
            entry.type, entry.linkname = tarfile.LNKTYPE, self._seen[inode]
        self._seen.setdefault(inode, name)
        if entry.type == tarfile.LNKTYPE:
            self._tar.addfile(entry)
            return
        entry.pax_headers = _read_attributes(path)
        if entry.type == tarfile.REGTYPE:
            entry.size = status.st_size
            with path.open("rb") as content:
                self._tar.addfile(entry, content)
        else:
            self._tar.addfile(entry)

    def add_all(self, directory: Path, name: str) -> None:
        """Add a directory and all that is in it."""
        self.add(directory, name)
        for path in sorted(directory.rglob("*")):
            self.add(path, str(PurePosixPath(name) / path.relative_to(directory)))


def _read_attributes(path: Path) -> dict[str, str]:
    found = {}
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith(_NOT_KEPT):
            value = os.getxattr(path, name, follow_symlinks=False)
            found[f"SCHILY.xattr.{name}"] = value.decode(errors="surrogateescape")
    return found


@contextmanager
def open_tree(writer: LayerWriter) -> Iterator[TreeTar]:
    """Write the tar of a layer, entry by entry."""
    # Of a file, writing a stream takes only `write`.
    target = cast(BinaryIO, writer)
    with tarfile.open(
        fileobj=target, mode="w|", bufsize=_CHUNK_BYTES, format=tarfile.PAX_FORMAT, encoding="utf-8"
    ) as tar:
        tar.copybufsize = _CHUNK_BYTES  # type: ignore[attr-defined]
        yield TreeTar(tar)
