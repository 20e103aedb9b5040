"""Lists the members of a tar that nobody vouches for, without unpacking it.

Only what Go's archive/tar writes is read, since CRI-O writes its archives with it: POSIX ustar headers and pax
extended ones (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html). Whatever two readers may
understand differently is refused, so that what was checked here is what a runtime sees later. Python's tarfile
decodes a header's fields; its iteration is not used, as it reads extended headers of any size, recurses over them,
and takes a broken header for the end.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NoReturn

from warmstart.core.errors import ArchiveError

BLOCK_BYTES = 512

# The bound that Go's reader has, maxSpecialFileSize.
MAX_PAX_BYTES = 1 << 20

# Linux: PATH_MAX, and NAME_MAX of every file system in use.
MAX_NAME_BYTES = 4096
MAX_COMPONENT_BYTES = 255

_REPACK = "pack it again with tar --format=posix, or take the file that the runtime wrote"

# Readers differ on blanks, signs and NULs around the digits, and so on where the next member begins.
_SIZE = re.compile(rb"[0-7]{1,11}[ \0]+|\x80.{11}", re.DOTALL)

_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Kind(Enum):
    """What a member is; the value is how a message calls it."""

    FILE = "a file"
    DIRECTORY = "a directory"
    SYMLINK = "a symbolic link"
    HARDLINK = "a hard link"
    FIFO = "a FIFO"
    CHARACTER_DEVICE = "a character device"
    BLOCK_DEVICE = "a block device"


_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER_DEVICE,
    tarfile.BLKTYPE: Kind.BLOCK_DEVICE,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar.

    Attributes:
        name: relative, without `.`, `..` or empty components; empty for the root directory itself. Bytes that
            are not UTF-8 are surrogate escapes, as in `os.fsdecode`.
        kind: what it is.
        size_bytes: the size of its content; 0 for all but files.
        offset: where its content begins in the open file.
        link: the target of a symbolic or hard link, as written.
    """

    name: str
    kind: Kind
    size_bytes: int
    offset: int
    link: str = ""


@dataclass(frozen=True)
class Span:
    """A tar in an open file, from byte `start` up to byte `end`; `label` names it in messages."""

    fd: int
    start: int
    end: int
    label: str

    def refuse(self, wrong: str, *, hint: str = "") -> NoReturn:
        """Raise the ArchiveError that says what is wrong with this tar."""
        raise ArchiveError(f"{self.label}: {wrong}", hint=hint)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Read from the file; less than asked for only where the file ends."""
        return os.pread(self.fd, size_bytes, offset)


def list_members(tar: Span, *, max_members: int) -> tuple[Member, ...]:
    """Read all headers of a tar; contents are skipped, not read.

    Names are unique, and no member lies beneath one that is not a directory, so no link can be followed by
    unpacking them. Where links point is not judged. What follows the end-of-archive mark is ignored: CRI-O
    does not truncate a file that it writes over.

    Raises:
        ArchiveError: it is no tar, is truncated, has more than `max_members` members, or has one that is not
            written the way Go writes it, is named twice, or would leave the root.
    """
    members = tuple(walk_members(tar, max_members=max_members))
    _check_tree(tar, members)
    return members


def walk_members(tar: Span, *, max_members: int) -> Iterator[Member]:
    """As `list_members`, one member after the other, and so without a look at how their names go together.

    The tar is read from its start to its end, so its content may arrive while it is read.

    Raises:
        ArchiveError: as `list_members`, while iterating.
    """
    _refuse_compressed(tar)
    offset = tar.start
    count = 0
    while found := _read_member(tar, offset):
        member, offset = found
        count += 1
        if count > max_members:
            tar.refuse(f"has more than {max_members} members")
        yield member


def quoted(name: str) -> str:
    """A member's name for a message: printable, on one line, not too long."""
    return repr(name if len(name) <= 120 else name[:117] + "...")


def _refuse_compressed(tar: Span) -> None:
    if tar.end == tar.start:
        tar.refuse("is empty")
    head = tar.read(tar.start, 6)
    for magic, program in _COMPRESSED.items():
        if head.startswith(magic):
            tar.refuse(
                f"is compressed with {program}; CRI-O writes and reads a plain tar",
                hint=f"decompress it first, with {program} -d",
            )


def _read_member(tar: Span, offset: int) -> tuple[Member, int] | None:
    """The member whose header is at `offset`, and the offset of the next; None at the end-of-archive mark."""
    header = _read_header(tar, offset)
    if header is None:
        return None
    offset += BLOCK_BYTES
    extended: dict[bytes, bytes] = {}
    if header.type == tarfile.XHDTYPE:
        extended = _read_extended(tar, offset, header.size)
        offset += _padded(header.size)
        header = _read_header(tar, offset)
        if header is None or header.type == tarfile.XHDTYPE:
            tar.refuse("has an extended header with no member after it")
        offset += BLOCK_BYTES
    name = _pax_text(tar, extended, b"path", header.name)
    kind = _KINDS.get(header.type)
    if kind is None:
        tar.refuse(f"{quoted(name)} is of type {header.type!r}, which CRI-O does not write", hint=_REPACK)
    name = _normalise(tar, name, kind)
    size_bytes = _pax_size(tar, extended, header.size)
    if size_bytes and kind is not Kind.FILE:
        tar.refuse(f"{quoted(name)} is {kind.value} and yet declares {size_bytes} bytes of content")
    if size_bytes > tar.end - offset:
        tar.refuse(f"{quoted(name)} declares {size_bytes} bytes but only {tar.end - offset} are left: it is truncated")
    link = _pax_text(tar, extended, b"linkpath", header.linkname)
    return Member(name, kind, size_bytes, offset, link), offset + _padded(size_bytes)


def _read_header(tar: Span, offset: int) -> tarfile.TarInfo | None:
    """The header block at `offset`; None for the two blocks of zeros that end a tar."""
    block = tar.read(offset, min(BLOCK_BYTES, max(0, tar.end - offset)))
    if len(block) < BLOCK_BYTES:
        if offset == tar.start:
            tar.refuse("is not a tar archive")
        tar.refuse("ends without an end-of-archive mark: it is truncated")
    if not any(block):
        second = tar.read(offset + BLOCK_BYTES, min(BLOCK_BYTES, tar.end - offset - BLOCK_BYTES))
        if len(second) < BLOCK_BYTES or any(second):
            tar.refuse(f"has a damaged end-of-archive mark at byte {offset - tar.start}")
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        if offset == tar.start:
            tar.refuse("is not a tar archive")
        tar.refuse(f"has a damaged header at byte {offset - tar.start}")
    # Where POSIX has a name's prefix, GNU's headers have times and star's have both, told by the last bytes.
    posix = block[257:265] == b"ustar\x0000" and not any(block[500:])
    gnu = block[257:265] == b"ustar  \0" and not any(block[345:])
    old_type = block[156:157] == tarfile.AREGTYPE
    if not (posix or gnu) or old_type or not _SIZE.fullmatch(block, 124, 136):
        tar.refuse(f"has a header that is not POSIX ustar at byte {offset - tar.start}", hint=_REPACK)
    return header


def _read_extended(tar: Span, offset: int, size_bytes: int) -> dict[bytes, bytes]:
    """The records of a pax extended header, each written as `LENGTH KEY=VALUE\\n`."""
    if size_bytes > MAX_PAX_BYTES:
        tar.refuse(f"has an extended header of {size_bytes} bytes; the limit is {MAX_PAX_BYTES}")
    data = tar.read(offset, min(size_bytes, tar.end - offset))
    if len(data) < size_bytes:
        tar.refuse("ends within an extended header: it is truncated")
    records: dict[bytes, bytes] = {}
    position = 0
    while position < size_bytes:
        length = _PAX_LENGTH.match(data, position)
        end = position + int(length[1]) if length else 0
        key, equals, value = data[length.end() if length else end : end].partition(b"=")
        if not equals or not value.endswith(b"\n") or end > size_bytes or key in records:
            tar.refuse(f"has a damaged extended header at byte {offset - tar.start}")
        if key.startswith(b"GNU.sparse."):
            tar.refuse("holds a sparse file, which CRI-O does not write")
        records[key] = value[:-1]
        position = end
    return records


def _pax_text(tar: Span, extended: dict[bytes, bytes], key: bytes, default: str) -> str:
    value = extended.get(key)
    if value is None:
        return default
    if not value or b"\0" in value:
        tar.refuse(f"has an extended header whose {key.decode()} is empty or holds a NUL byte")
    return value.decode("utf-8", "surrogateescape")


def _pax_size(tar: Span, extended: dict[bytes, bytes], default: int) -> int:
    value = extended.get(b"size")
    if value is None:
        return default
    if not re.fullmatch(rb"[0-9]{1,18}", value):
        tar.refuse("has an extended header whose size is not a number of bytes")
    return int(value)


def _normalise(tar: Span, name: str, kind: Kind) -> str:
    """The name without the `./` and the trailing slash that other tars write; see `Member.name`."""
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
    longest = max(len(os.fsencode(component)) for component in components)
    if longest > MAX_COMPONENT_BYTES or len(os.fsencode(plain)) > MAX_NAME_BYTES:
        tar.refuse(f"{quoted(name)} is too long a name")
    return plain


def _check_tree(tar: Span, members: Sequence[Member]) -> None:
    """Refuse a name that is there twice, and a member beneath one that is not a directory.

    Sorted with the slash below any other character, what lies beneath a member follows it directly, so
    neighbours tell.
    """
    ordered = sorted(members, key=lambda member: member.name.replace("/", "\0"))
    for member, following in pairwise(ordered):
        if member.name == following.name:
            tar.refuse(f"{quoted(member.name)} is there more than once")
        if member.kind is not Kind.DIRECTORY and following.name.startswith(member.name + "/"):
            tar.refuse(f"{quoted(following.name)} lies beneath {quoted(member.name)}, {member.kind.value}")


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
