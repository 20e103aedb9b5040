"""List the members of an untrusted tar without unpacking it.

There is one reader with two levels of strictness:

- An archive is a checkpoint archive or an oci-archive. Only the format of Go's archive/tar is read, since CRI-O writes
  its archives with it. Anything that two readers may understand differently is refused, so that a runtime later sees
  the same files that were checked here.
- A layer is part of an image, written by Docker, buildah, jib, kaniko, ko, bazel or GNU tar. It is read as runtimes
  read it, with the rules of Go's archive/tar. Only tars that this reader refuses are refused, and oversized ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NoReturn, Protocol

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive import tar_header
from warmstart.dump.archive.tar_header import BLOCK_BYTES, DamagedError, Format, Header

# The limit of Go's reader, maxSpecialFileSize.
MAX_PAX_BYTES = 1 << 20

# Linux: PATH_MAX, and NAME_MAX of every file system in use.
MAX_NAME_BYTES = 4096
MAX_COMPONENT_BYTES = 255

#: The largest layers of real images have some hundred thousand members, with up to 1 KiB of extended headers each.
MAX_LAYER_MEMBERS = 2_000_000
MAX_LAYER_HEADER_BYTES = 256 << 20

# A pax header, a long name and a long link may precede a member; GNU tar writes no more than these.
_MAX_EXTENSIONS = 16
_REPACK = "pack it again with tar --format=posix, or take the file that the runtime wrote"

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Kind(Enum):
    """The kind of a member; the value is its name in messages."""

    FILE = "a file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    HARDLINK = "a hard link"
    FIFO = "a FIFO"
    CHARACTER_DEVICE = "a character device"
    BLOCK_DEVICE = "a block device"
    SPARSE_FILE = "a sparse file"
    OTHER = "something else"


_LONG = {tar_header.GNU_LONG_NAME: b"path", tar_header.GNU_LONG_LINK: b"linkpath"}
_EXTENDING = (tar_header.PAX, tar_header.PAX_GLOBAL, *_LONG)
_SPARSE = b"GNU.sparse."

_KINDS = {
    tar_header.FILE: Kind.FILE,
    tar_header.DIRECTORY: Kind.DIRECTORY,
    tar_header.SYMLINK: Kind.SYMLINK,
    tar_header.HARDLINK: Kind.HARDLINK,
    tar_header.FIFO: Kind.FIFO,
    tar_header.CHARACTER: Kind.CHARACTER_DEVICE,
    tar_header.BLOCK: Kind.BLOCK_DEVICE,
}


_WITHOUT_CONTENT = frozenset(_KINDS.values()) - {Kind.FILE}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    Attributes:
        name: relative path, without `.`, `..` or empty components; empty for the root directory itself. Bytes that
            are not UTF-8 are surrogate escapes, as in `os.fsdecode`.
        kind: kind of member.
        size_bytes: size of its content; 0 except for files.
        offset: start of its content in the open file.
        link: target of a symbolic or hard link, as written.
    """

    name: str
    kind: Kind
    size_bytes: int
    offset: int
    link: str = ""


class Tar(Protocol):
    """An uncompressed tar, read sequentially."""

    @property
    def start(self) -> int:
        """Offset of the first byte."""

    @property
    def end(self) -> int:
        """Offset after the last byte; the largest possible if not known yet."""

    @property
    def label(self) -> str:
        """Name of the tar in messages."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Read `size_bytes` bytes; fewer only at the end of the tar."""

    def reaches(self, offset: int) -> bool:
        """Whether the tar extends to `offset`; called after `read` has found its end."""

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        """Raise an ArchiveError about this tar."""


@dataclass(frozen=True)
class Span:
    """A tar in an open file, from byte `start` up to byte `end`; `label` names it in messages."""

    fd: int
    start: int
    end: int
    label: str

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        """Raise an ArchiveError about this tar."""
        raise ArchiveError(f"{self.label}: {problem}", hint=hint)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Read `size_bytes` bytes; fewer only at the end of the file."""
        return os.pread(self.fd, size_bytes, offset)

    def reaches(self, offset: int) -> bool:
        """Whether the tar extends to `offset`."""
        return self.end >= offset


def list_members(tar: Span, *, max_members: int) -> tuple[Member, ...]:
    """Read all headers of a tar; contents are skipped, not read.

    Names are unique, and no member lies beneath one that is not a directory, so unpacking follows no link. Link targets
    are not checked. Data after the end-of-archive mark is ignored: CRI-O does not truncate a file that it overwrites.

    Raises:
        ArchiveError: it is no tar, is truncated, has more than `max_members` members, or has one that is not
            written the way Go writes it, is named twice, or would leave the root.
    """
    members = tuple(walk_members(tar, max_members=max_members))
    _check_tree(tar, members)
    return members


def walk_members(tar: Tar, *, max_members: int) -> Iterator[Member]:
    """Yield members like `list_members`, one by one, without checking their names against each other.

    The tar is read sequentially, so its content may arrive while it is read.

    Raises:
        ArchiveError: as for `list_members`, while iterating.
    """
    _refuse_compressed(tar)
    yield from _count(tar, _Walk(tar, strict=True), max_members)


def walk_layer(tar: Tar, *, max_members: int = MAX_LAYER_MEMBERS) -> Iterator[Member]:
    """Yield the members of a layer, one by one, as runtimes read it.

    Names are relative and plain, as for `list_members`. They may repeat, and may lie beneath a link: a caller that
    unpacks them must handle both. A member without a name is the root. Special files have no content here. The bytes at
    `offset` are not the content of a sparse file.

    Raises:
        ArchiveError: it is no tar, is truncated, or has more members than the limit or headers larger than
            MAX_LAYER_HEADER_BYTES; or a name leads out of the root. Raised while iterating.
    """
    yield from _count(tar, _Walk(tar, strict=False), max_members)


def _count(tar: Tar, members: Iterator[Member], max_members: int) -> Iterator[Member]:
    for count, member in enumerate(members, 1):
        if count > max_members:
            tar.refuse(f"has more than {max_members} members")
        yield member


def quoted(name: str) -> str:
    """Return a member's name for a message: printable, on one line, not too long."""
    return repr(name if len(name) <= 120 else name[:117] + "...")


def _refuse_compressed(tar: Tar) -> None:
    if tar.end == tar.start:
        tar.refuse("is empty")
    head = tar.read(tar.start, 6)
    for magic, program in _COMPRESSED.items():
        if head.startswith(magic):
            tar.refuse(
                f"is compressed with {program}; CRI-O writes and reads a plain tar",
                hint=f"decompress it first, with {program} -d",
            )


class _Walk(Iterator[Member]):
    """Iterator over the members of a tar."""

    def __init__(self, tar: Tar, *, strict: bool) -> None:
        self._tar = tar
        self._strict = strict
        self._offset = tar.start
        self._content_end = tar.start
        self._extended_bytes = 0

    def __next__(self) -> Member:
        found = self._read_extended()
        if found is None:
            raise StopIteration
        member = self._make_member(*found)
        self._content_end = member.offset + member.size_bytes
        self._offset = member.offset + _padded(member.size_bytes)
        return member

    def _read_extended(self) -> tuple[Header, dict[bytes, bytes]] | None:
        """Read the next member's header and its extensions; None at the end of the tar."""
        extended: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        allowed = 1 if self._strict else _MAX_EXTENSIONS
        count = 0
        while header := self._read_header():
            self._offset += BLOCK_BYTES
            count += 1
            if count > allowed and header.type in _EXTENDING:
                break
            if header.type == tar_header.PAX:
                extended = self._read_records(header)
            elif header.type == tar_header.PAX_GLOBAL and not self._strict:
                # Runtimes ignore its records, and it cancels extended headers before it.
                self._read_records(header)
                extended, long = {}, {}
            elif header.type in _LONG and not self._strict:
                long[_LONG[header.type]] = self._read_special(header.size_bytes).partition(b"\0")[0]
            else:
                return header, extended | {key: value for key, value in long.items() if value}
        if count > _MAX_EXTENSIONS:
            self._tar.refuse(f"has more than {_MAX_EXTENSIONS} extended headers before a member")
        if count:
            self._tar.refuse("has an extended header with no member after it")
        return None

    def _read_header(self) -> Header | None:
        """Read the header block at the current offset; None at the end of the tar."""
        tar, offset = self._tar, self._offset
        block = tar.read(offset, min(BLOCK_BYTES, max(0, tar.end - offset)))
        if len(block) < BLOCK_BYTES:
            # Go's reader accepts this as the end, and some programs leave out the mark.
            if not block and not self._strict and tar.reaches(self._content_end):
                return None
            if offset == tar.start:
                tar.refuse("is not a tar archive")
            tar.refuse("ends without an end-of-archive mark: it is truncated")
        if not any(block):
            second = tar.read(offset + BLOCK_BYTES, min(BLOCK_BYTES, tar.end - offset - BLOCK_BYTES))
            if any(second) or (len(second) < BLOCK_BYTES and (self._strict or second)):
                tar.refuse(f"has a damaged end-of-archive mark at byte {offset - tar.start}")
            return None
        try:
            header = tar_header.decode_header(block)
        except DamagedError as error:
            if offset == tar.start:
                tar.refuse("is not a tar archive")
            tar.refuse(f"has a damaged header at byte {offset - tar.start}: {error}")
        if self._strict and not header.is_plain:
            tar.refuse(f"has a header that is not POSIX ustar at byte {offset - tar.start}", hint=_REPACK)
        return header

    def _read_records(self, header: Header) -> dict[bytes, bytes]:
        """Read the records of a pax extended header."""
        tar, offset = self._tar, self._offset
        try:
            records = tar_header.parse_records(self._read_special(header.size_bytes), strict=self._strict)
        except DamagedError as error:
            tar.refuse(f"has a damaged extended header at byte {offset - tar.start}: {error}")
        if self._strict and any(key.startswith(_SPARSE) for key in records):
            tar.refuse("holds a sparse file, which CRI-O does not write")
        return records

    def _read_special(self, size_bytes: int) -> bytes:
        """Read the content of a member that describes the next one."""
        tar = self._tar
        if size_bytes > MAX_PAX_BYTES:
            tar.refuse(f"has an extended header of {size_bytes} bytes; the limit is {MAX_PAX_BYTES}")
        self._extended_bytes += size_bytes
        if self._extended_bytes > MAX_LAYER_HEADER_BYTES and not self._strict:
            tar.refuse(f"has extended headers of more than {MAX_LAYER_HEADER_BYTES} bytes")
        data = tar.read(self._offset, min(size_bytes, max(0, tar.end - self._offset)))
        if len(data) < size_bytes:
            tar.refuse("ends within an extended header: it is truncated")
        self._offset += _padded(size_bytes)
        return data

    def _make_member(self, header: Header, extended: dict[bytes, bytes]) -> Member:
        tar = self._tar
        name = self._find_text(extended, b"path", header.name)
        kind = self._find_kind(name, header, extended)
        name = _normalise(tar, name, kind) if self._strict else _clean(tar, self._find_sparse_name(extended) or name)
        size_bytes = self._find_size(extended, header.size_bytes)
        if size_bytes and self._strict and kind is not Kind.FILE:
            tar.refuse(f"{quoted(name)} is {kind.value} and yet declares {size_bytes} bytes of content")
        if kind in _WITHOUT_CONTENT:
            size_bytes = 0
        self._skip_sparse_map(header)
        left_bytes = tar.end - self._offset
        if size_bytes > left_bytes:
            tar.refuse(f"{quoted(name)} declares {size_bytes} bytes but only {left_bytes} are left: it is truncated")
        link = self._find_text(extended, b"linkpath", header.link)
        if len(link) > MAX_NAME_BYTES:
            tar.refuse(f"{quoted(name)} is a link with too long a target")
        return Member(name, kind, size_bytes, self._offset, link)

    def _find_kind(self, name: str, header: Header, extended: dict[bytes, bytes]) -> Kind:
        kind = _KINDS.get(header.type)
        if self._strict:
            if kind is None:
                self._tar.refuse(f"{quoted(name)} is of type {header.type!r}, which CRI-O does not write", hint=_REPACK)
            return kind
        if header.type == tar_header.OLD_FILE:
            return Kind.DIRECTORY if name.endswith("/") else Kind.FILE
        is_sparse = header.type == tar_header.GNU_SPARSE or any(key.startswith(_SPARSE) for key in extended)
        if is_sparse and kind in (None, Kind.FILE):
            return Kind.SPARSE_FILE
        return kind or Kind.OTHER

    def _find_text(self, extended: dict[bytes, bytes], key: bytes, default: str) -> str:
        value = extended.get(key)
        if value is None or (not value and not self._strict):
            return default
        if not value or b"\0" in value:
            self._tar.refuse(f"has an extended header whose {key.decode()} is empty or holds a NUL byte")
        return value.decode("utf-8", "surrogateescape")

    def _find_sparse_name(self, extended: dict[bytes, bytes]) -> str:
        name = extended.get(_SPARSE + b"name", b"")
        if b"\0" in name:
            self._tar.refuse("has an extended header whose name holds a NUL byte")
        return name.decode("utf-8", "surrogateescape")

    def _find_size(self, extended: dict[bytes, bytes], default: int) -> int:
        value = extended.get(b"size")
        if value is None or (not value and not self._strict):
            return default
        if not re.fullmatch(rb"[0-9]{1,18}", value):
            self._tar.refuse("has an extended header whose size is not a number of bytes")
        return int(value)

    def _skip_sparse_map(self, header: Header) -> None:
        """Skip the blocks of an old GNU sparse map, before the content."""
        more = header.is_sparse_continued
        if header.type == tar_header.GNU_SPARSE and header.format is not Format.GNU:
            self._tar.refuse("holds a sparse file that GNU tar did not write")
        while more:
            block = self._read_special(BLOCK_BYTES)
            more = tar_header.is_sparse_map_continued(block)


def _normalise(tar: Tar, name: str, kind: Kind) -> str:
    """Return the name without the leading `./` and trailing slash of some tars; see `Member.name`."""
    if not name:
        tar.refuse("has a member with an empty name")
    if kind is Kind.DIRECTORY and name in (".", "./"):
        return ""
    plain = name.removeprefix("./")
    if kind is Kind.DIRECTORY:
        plain = plain.removesuffix("/")
    components = plain.split("/")
    if name.startswith("/"):
        tar.refuse(f"{quoted(name)} has an absolute name")
    if ".." in components:
        tar.refuse(f"{quoted(name)} leads out of the archive")
    if "" in components or "." in components:
        tar.refuse(f"{quoted(name)} is not a plain relative name")
    _check_length(tar, plain, components)
    return plain


def _clean(tar: Tar, name: str) -> str:
    """Return the name as runtimes understand it, by Go's path.Clean, below the root."""
    components: list[str] = []
    for component in name.split("/"):
        if component == "..":
            if not components:
                tar.refuse(f"{quoted(name)} leads out of the layer")
            components.pop()
        elif component not in ("", "."):
            components.append(component)
    plain = "/".join(components)
    _check_length(tar, plain, components or [""])
    return plain


def _check_length(tar: Tar, name: str, components: Sequence[str]) -> None:
    longest = max(len(os.fsencode(component)) for component in components)
    if longest > MAX_COMPONENT_BYTES or len(os.fsencode(name)) > MAX_NAME_BYTES:
        tar.refuse(f"{quoted(name)} is too long a name")


def _check_tree(tar: Span, members: Sequence[Member]) -> None:
    """Refuse duplicate names, and members beneath one that is not a directory.

    If names are sorted with the slash before any other character, the members beneath another follow it directly, so
    comparing neighbours is enough.
    """
    ordered = sorted(members, key=lambda member: member.name.replace("/", "\0"))
    for member, following in pairwise(ordered):
        if member.name == following.name:
            tar.refuse(f"{quoted(member.name)} is there more than once")
        if member.kind is not Kind.DIRECTORY and following.name.startswith(member.name + "/"):
            tar.refuse(f"{quoted(following.name)} lies beneath {quoted(member.name)}, {member.kind.value}")


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
