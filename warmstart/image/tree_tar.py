"""Make layers from directory trees, with owners, links and times.

Privileges are dropped: setuid and setgid bits of files, file capabilities, device nodes. So are sockets, since no tar
can hold them. Extended attributes are written as containers/storage and containerd read them, in records
`SCHILY.xattr.NAME` (pax_headers(5) of star).

The tree is untrusted: its owner may try to get a file of this machine into the layer, or swap a file before it is read.
So each name is looked up once, in its open directory, without following links. All later reads use that descriptor.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from warmstart.core.errors import ImageError

_CHUNK_BYTES = 1 << 20
#: Bits of a mode that a layer keeps.
MODE_BITS = 0o1777
#: The same of a directory: setgid, for the group of new files, is no privilege there.
DIRECTORY_MODE_BITS = MODE_BITS | stat.S_ISGID
_NOT_KEPT = ("trusted.", "security.")
# Each level takes a descriptor.
_MOST_LEVELS = 250


@dataclass(frozen=True)
class Entry:
    """A file of any kind, pinned by a descriptor.

    Attributes:
        fd: descriptor opened with O_PATH.
        status: its status at that time.
    """

    fd: int
    status: os.stat_result

    @property
    def kind(self) -> int:
        """File type as from stat.S_IFMT."""
        return stat.S_IFMT(self.status.st_mode)

    @property
    def path(self) -> str:
        """A path to exactly this file; a symbolic link is not followed."""
        return f"/proc/self/fd/{self.fd}"

    def read_attributes(self) -> dict[str, bytes]:
        """Return its extended attributes."""
        return {name: os.getxattr(self.path, name) for name in os.listxattr(self.path)}


@contextmanager
def open_entry(name: str | Path, directory: int | None = None) -> Iterator[Entry]:
    """Look up a name, relative to an open directory if given."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield Entry(fd, os.fstat(fd))
    finally:
        os.close(fd)


def walk(directory: Entry, name: str, skipped: Collection[str] = (), level: int = 0) -> Iterator[tuple[Entry, str]]:
    """Yield each entry below a directory with its path, parents first. It is closed when the next one is requested.

    Args:
        directory: the start, not yielded itself.
        name: its path.
        skipped: paths to leave out, with everything below.
        level: depth of the directory.

    Raises:
        ImageError: directories are nested too deep.
    """
    if level > _MOST_LEVELS:
        raise ImageError(f"cannot make a layer: directories are nested more than {_MOST_LEVELS} deep: {name[:100]}...")
    # An O_PATH descriptor cannot be listed, but its /proc path is safe from links.
    for inner in sorted(os.listdir(directory.path)):  # noqa: PTH208
        path = f"{name}/{inner}".lstrip("/")
        if path in skipped:
            continue
        with open_entry(inner, directory.fd) as entry:
            yield entry, path
            if entry.kind == stat.S_IFDIR:
                yield from walk(entry, path, skipped, level + 1)


class TreeTar:
    """A tar, written entry by entry."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._seen: dict[tuple[int, int], str] = {}

    def make_directory(self, name: str) -> None:
        """Add a world-readable directory owned by root, without a time."""
        entry = tarfile.TarInfo(f"{name}/")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        self._tar.addfile(entry)

    def make_empty(self, name: str) -> None:
        """Add an empty file owned by root, without a time."""
        entry = tarfile.TarInfo(name)
        entry.mode = 0o644
        self._tar.addfile(entry)

    def make_text(self, text: str, name: str) -> None:
        """Add a world-readable file owned by root, without a time."""
        entry, data = tarfile.TarInfo(name), text.encode()
        entry.mode, entry.size = 0o644, len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def make_fifo(self, name: str) -> None:
        """Add a FIFO owned by root that everybody can read and write, without a time."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.FIFOTYPE, 0o666
        self._tar.addfile(entry)

    def copy_program(self, path: Path, name: str) -> None:
        """Add a file with its content and executable bit only."""
        entry = tarfile.TarInfo(name)
        status = path.stat()
        entry.mode, entry.size = 0o755 if status.st_mode & 0o111 else 0o644, status.st_size
        with path.open("rb") as content:
            self._tar.addfile(entry, content)

    def add(self, found: Entry, name: str, *, mtime: int | None = None) -> None:
        """Add a file, link, FIFO or directory; a directory without its content.

        Args:
            found: the entry.
            name: its name in the tar.
            mtime: modification time, in seconds since the epoch; that of the entry if None.

        Raises:
            ImageError: it changed while it was read.
        """
        types = {
            stat.S_IFLNK: tarfile.SYMTYPE,
            stat.S_IFDIR: tarfile.DIRTYPE,
            stat.S_IFIFO: tarfile.FIFOTYPE,
            stat.S_IFREG: tarfile.REGTYPE,
        }
        if found.kind not in types:
            return
        entry, status = tarfile.TarInfo(name), found.status
        entry.type = types[found.kind]
        bits = DIRECTORY_MODE_BITS if found.kind == stat.S_IFDIR else MODE_BITS
        entry.mode, entry.uid, entry.gid = status.st_mode & bits, status.st_uid, status.st_gid
        entry.mtime = int(status.st_mtime) if mtime is None else mtime
        if entry.type == tarfile.SYMTYPE:
            entry.linkname = os.readlink("", dir_fd=found.fd)
        inode = (status.st_dev, status.st_ino)
        if entry.type != tarfile.DIRTYPE and status.st_nlink > 1 and inode in self._seen:
            entry.type, entry.linkname = tarfile.LNKTYPE, self._seen[inode]
            self._tar.addfile(entry)
            return
        self._seen.setdefault(inode, name)
        entry.pax_headers = _describe_attributes(found)
        if entry.type == tarfile.REGTYPE:
            self._add_content(found, entry)
        else:
            self._tar.addfile(entry)

    def _add_content(self, found: Entry, entry: tarfile.TarInfo) -> None:
        entry.size = found.status.st_size
        changed = ImageError(f"cannot make a layer: {entry.name} changed while it was read")
        # Reopen the pinned file for reading through its /proc path.
        with open(os.open(found.path, os.O_RDONLY | os.O_CLOEXEC), "rb") as content:  # noqa: PTH123
            try:
                self._tar.addfile(entry, content)
            except OSError as error:
                if error.errno is None:  # tarfile's own: the file is shorter than it was
                    raise changed from error
                raise
            if _version(os.fstat(content.fileno())) != _version(found.status):
                raise changed

    def add_all(self, directory: Entry, name: str, *, mtime: int | None = None) -> None:
        """Add a directory and everything below; arguments as for `add`."""
        self.add(directory, name, mtime=mtime)
        for entry, path in walk(directory, name):
            self.add(entry, path, mtime=mtime)


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return the fields that change when a file is written to."""
    return (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _describe_attributes(found: Entry) -> dict[str, str]:
    return {
        f"SCHILY.xattr.{name}": value.decode(errors="surrogateescape")
        for name, value in found.read_attributes().items()
        if not name.startswith(_NOT_KEPT)
    }


class Writer(Protocol):
    """A stream that a tar is written to."""

    def write(self, data: bytes, /) -> object:
        """Add a piece of the tar."""


@contextmanager
def open_tree(writer: Writer) -> Iterator[TreeTar]:
    """Open a tar for writing entry by entry."""
    # A stream needs only `write`.
    target = cast(BinaryIO, writer)
    with tarfile.open(
        fileobj=target, mode="w|", bufsize=_CHUNK_BYTES, format=tarfile.PAX_FORMAT, encoding="utf-8"
    ) as tar:
        tar.copybufsize = _CHUNK_BYTES  # type: ignore[attr-defined]
        yield TreeTar(tar)
