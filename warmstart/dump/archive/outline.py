"""Unpack only the metadata of a checkpoint, without its memory.

An outline is an archive's directory as made by `extract_archive`, with only those of CRIU's image files that describe
the processes and the sockets. Files with memory have only their ends, since a process's command line lies at the end of
its stack, its highest mapping. The rest of those files is a hole.

A checkpoint in the layer of an image arrives as a stream, and in any order. The stream is stored as a sparse file: the
same tar with only the parts for an outline, checked in the same way as an archive.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from warmstart.core.errors import HostError
from warmstart.dump.archive.archive import (
    BIND_MOUNTS,
    CHECKPOINT_DIRECTORY,
    CONFIG_DUMP,
    DEFAULT_LIMITS,
    DELETED_FILES,
    ROOTFS_DIFF,
    SPEC_DUMP,
    Archive,
    Limits,
    check_tar,
    open_tar,
    unpack,
)
from warmstart.dump.archive.tar_stream import Stream
from warmstart.dump.archive.tarball import Member, Span, walk_members

#: Size kept from the end of each file with memory. The kernel puts the arguments at the top of the stack, below the
#: environment and the program's name (`setup_arg_pages` and `copy_strings` in its fs/exec.c).
MEMORY_END_BYTES = 128 << 10

#: Largest size of an outline: many times that of the largest applications.
LIMIT_BYTES = 512 << 20

_MEMORY = f"{CHECKPOINT_DIRECTORY}/pages-*.img"
_ENTRIES = ("inventory", "pstree", "core-*", "mm-*", "pagemap-*", "files", "seccomp")
_OUTLINE = (
    CONFIG_DUMP,
    SPEC_DUMP,
    BIND_MOUNTS,
    DELETED_FILES,
    *(f"{CHECKPOINT_DIRECTORY}/{name}.img" for name in _ENTRIES),
    _MEMORY,
)
_CHUNK_BYTES = 1 << 20


def extract_outline(archive: Path, into: Path, *, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """Unpack the outline of a checkpoint archive into a new directory, like `extract_archive`.

    Raises:
        ArchiveError: as for `extract_archive`, or the outline is larger than LIMIT_BYTES.
        HostError: `into` cannot be made or written to.
    """
    with open_tar(archive) as tar:
        return _extract(tar, into, limits)


def spool_outline(stream: Stream, file: Path, label: str, *, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Read a tar from a stream, to its end, into a sparse file with only the data that an outline needs.

    Args:
        stream: an uncompressed tar, such as a layer.
        file: path of the new file.
        label: name of the tar in messages.
        limits: upper bounds for the tar.

    Returns:
        The names of its members.

    Raises:
        ArchiveError: it is no tar, is broken, exceeds the limits, or is in an unsupported format.
        HostError: the file cannot be written.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        spool = _Spool(stream, fd, label, limits.total_bytes)
        # The end is not known; `spool` enforces the limit.
        tar = _SpoolingSpan(fd, 0, sys.maxsize, label, spool)
        names = []
        for member in walk_members(tar, max_members=limits.members):
            names.append(member.name)
            _spool_member(tar, member, limits)
        spool.skip_to_end()
    except OSError as error:
        raise HostError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        os.close(fd)
    return tuple(names)


def extract_spooled(file: Path, into: Path, label: str, *, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """Unpack an outline from a file that `spool_outline` made. Files that are not the checkpoint's are ignored.

    Raises:
        ArchiveError: as for `extract_outline`.
        HostError: `into` cannot be made or written to.
    """
    with open_tar(file) as tar:
        return _extract(Span(tar.fd, tar.start, tar.end, label), into, limits, is_layer=True)


def _extract(tar: Span, into: Path, limits: Limits, *, is_layer: bool = False) -> Archive:
    contents = check_tar(tar, limits, is_layer=is_layer)
    members = [member for member in contents.members if _is_in_outline(member)]
    if sum(member.size_bytes - _skipped_bytes(member) for member in members) > LIMIT_BYTES:
        tar.refuse(f"has metadata of more than {LIMIT_BYTES} bytes")
    unpack(tar, members, into, skip=_skipped_bytes)
    return Archive(**vars(contents), root=into)


def _is_in_outline(member: Member) -> bool:
    return any(fnmatch(member.name, pattern) for pattern in _OUTLINE)


def _skipped_bytes(member: Member) -> int:
    return max(0, member.size_bytes - MEMORY_END_BYTES) if fnmatch(member.name, _MEMORY) else 0


def _spool_member(tar: _SpoolingSpan, member: Member, limits: Limits) -> None:
    """Read the needed part of a member's content from the stream."""
    end = member.offset + member.size_bytes
    if member.name == ROOTFS_DIFF:
        # Checking the tar within the tar needs only its headers.
        diff = _SpoolingSpan(tar.fd, member.offset, end, f"{tar.label}: {ROOTFS_DIFF!r}", tar.spool)
        for _ in walk_members(diff, max_members=limits.members):
            pass
    elif _is_in_outline(member):
        tar.spool.keep(member.offset + _skipped_bytes(member), end)


class _Spool:
    """A stream that is stored in a sparse file as it is read."""

    def __init__(self, stream: Stream, fd: int, label: str, limit_bytes: int) -> None:
        self._stream = stream
        self._tar = Span(fd, 0, 0, label)
        self._limit_bytes = limit_bytes
        self._position = 0
        self._kept_bytes = 0

    def keep(self, start: int, end: int) -> None:
        """Store the bytes from `start` to `end`, or to the stream's end; unread bytes before `start` become a hole."""
        while self._position < start and self._next(start):
            pass
        while self._position < end and (data := self._next(end)):
            self._kept_bytes += len(data)
            if self._kept_bytes > LIMIT_BYTES:
                self._tar.refuse(f"has metadata of more than {LIMIT_BYTES} bytes")
            os.pwrite(self._tar.fd, data, self._position - len(data))

    def skip_to_end(self) -> None:
        """Read the rest of the stream, and extend the file to its length."""
        while self._next(self._limit_bytes + 1):
            pass
        os.ftruncate(self._tar.fd, self._position)

    def _next(self, end: int) -> bytes:
        data = self._stream.read(min(end - self._position, _CHUNK_BYTES))
        self._position += len(data)
        if self._position > self._limit_bytes:
            self._tar.refuse(f"holds more than {self._limit_bytes} bytes")
        return data


@dataclass(frozen=True)
class _SpoolingSpan(Span):
    spool: _Spool

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.spool.keep(offset, offset + size_bytes)
        return super().read(offset, size_bytes)
