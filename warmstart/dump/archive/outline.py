"""Takes from a checkpoint what says what is in it, and leaves its memory where it is.

An outline is an archive's directory as `extract_archive` makes it, but of CRIU's images it has only those with the
processes and the sockets. Of the memory it has the ends, since a process's command line lies at the end of its stack,
which is its highest mapping; the rest of those files are holes.

A checkpoint in the layer of an image comes as a stream, and in any order. Of the stream a sparse file is made that is
the same tar as far as an outline goes, so that it is judged as an archive is.
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
    judge_tar,
    open_tar,
    unpack,
)
from warmstart.dump.archive.tar_stream import Stream
from warmstart.dump.archive.tarball import Member, Span, walk_members

#: How much of the end of each file with memory is taken. The kernel puts the arguments at the top of the stack, below
#: the environment and the program's name (`setup_arg_pages` and `copy_strings` in its fs/exec.c).
MEMORY_END_BYTES = 128 << 10

#: How much is taken at most: this is many times what the largest applications have.
LIMIT_BYTES = 512 << 20

_MEMORY = f"{CHECKPOINT_DIRECTORY}/pages-*.img"
_IMAGES = ("inventory", "pstree", "core-*", "mm-*", "pagemap-*", "files", "seccomp")
_TAKEN = (
    CONFIG_DUMP,
    SPEC_DUMP,
    BIND_MOUNTS,
    DELETED_FILES,
    *(f"{CHECKPOINT_DIRECTORY}/{name}.img" for name in _IMAGES),
    _MEMORY,
)
_CHUNK_BYTES = 1 << 20


def extract_outline(archive: Path, into: Path, *, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """Unpack the outline of a checkpoint archive into a new directory, as `extract_archive` unpacks all of it.

    Raises:
        ArchiveError: as `extract_archive`; or it would be larger than LIMIT_BYTES.
        HostError: `into` cannot be made or written to.
    """
    with open_tar(archive) as tar:
        return _extract(tar, into, limits)


def spool_outline(stream: Stream, file: Path, label: str, *, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Read a tar from a stream, to its end, and make a file of what an outline needs; the rest of it are holes.

    Args:
        stream: an uncompressed tar, such as a layer.
        file: where to; it does not exist yet.
        label: names the tar in messages.
        limits: what the tar may hold.

    Returns:
        The names of its members.

    Raises:
        ArchiveError: it is no tar, is broken, holds too much, or is written in a way that is not read here.
        HostError: the file cannot be written.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        arriving = _Arriving(stream, fd, label, limits.total_bytes)
        # Nobody knows where it ends; `arriving` sees to the limit.
        tar = _ArrivingSpan(fd, 0, sys.maxsize, label, arriving)
        names = []
        for member in walk_members(tar, max_members=limits.members):
            names.append(member.name)
            _take(tar, member, limits)
        arriving.skip_to_end()
    except OSError as error:
        raise HostError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        os.close(fd)
    return tuple(names)


def extract_spooled(file: Path, into: Path, label: str, *, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """As `extract_outline`, from a file that `spool_outline` made; beside the checkpoint it may hold anything.

    Raises:
        ArchiveError: as `extract_outline`.
        HostError: `into` cannot be made or written to.
    """
    with open_tar(file) as tar:
        return _extract(Span(tar.fd, tar.start, tar.end, label), into, limits, among_others=True)


def _extract(tar: Span, into: Path, limits: Limits, *, among_others: bool = False) -> Archive:
    contents = judge_tar(tar, limits, among_others=among_others)
    members = [member for member in contents.members if _is_taken(member)]
    if sum(member.size_bytes - _skipped_bytes(member) for member in members) > LIMIT_BYTES:
        tar.refuse(f"says more about itself than {LIMIT_BYTES} bytes")
    unpack(tar, members, into, skip=_skipped_bytes)
    return Archive(**vars(contents), root=into)


def _is_taken(member: Member) -> bool:
    return any(fnmatch(member.name, pattern) for pattern in _TAKEN)


def _skipped_bytes(member: Member) -> int:
    return max(0, member.size_bytes - MEMORY_END_BYTES) if fnmatch(member.name, _MEMORY) else 0


def _take(tar: _ArrivingSpan, member: Member, limits: Limits) -> None:
    """Have a member's content arrive, as much of it as is needed."""
    end = member.offset + member.size_bytes
    if member.name == ROOTFS_DIFF:
        # Of the tar within the tar, the headers are judged.
        diff = _ArrivingSpan(tar.fd, member.offset, end, f"{tar.label}: {ROOTFS_DIFF!r}", tar.arriving)
        for _ in walk_members(diff, max_members=limits.members):
            pass
    elif _is_taken(member):
        tar.arriving.keep(member.offset + _skipped_bytes(member), end)


class _Arriving:
    """A stream that becomes a sparse file as far as it is read."""

    def __init__(self, stream: Stream, fd: int, label: str, limit_bytes: int) -> None:
        self._stream = stream
        self._tar = Span(fd, 0, 0, label)
        self._limit_bytes = limit_bytes
        self._position = 0
        self._kept_bytes = 0

    def keep(self, start: int, end: int) -> None:
        """Read up to `end`; what lies before `start` and has not been read becomes a hole. Less at the stream's end."""
        while self._position < start and self._next(start):
            pass
        while self._position < end and (data := self._next(end)):
            self._kept_bytes += len(data)
            if self._kept_bytes > LIMIT_BYTES:
                self._tar.refuse(f"says more about itself than {LIMIT_BYTES} bytes")
            os.pwrite(self._tar.fd, data, self._position - len(data))

    def skip_to_end(self) -> None:
        """Read what is left; the file is then as long as the stream."""
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
class _ArrivingSpan(Span):
    arriving: _Arriving

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.arriving.keep(offset, offset + size_bytes)
        return super().read(offset, size_bytes)
