"""Decode the 512-byte headers and the extended headers of a tar.

Formats: POSIX ustar and pax (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html), GNU tar, star, V7.
Fields are read as in Go's archive/tar (`readHeader` and `parsePAX` in src/archive/tar/reader.go of
https://github.com/golang/go), since every container runtime uses it. Python's tarfile is not used: it accepts sizes
such as `-1` and `0o7`, reads extended headers of any size, and recurses over them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

BLOCK_BYTES = 512

FILE, OLD_FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6"
PAX, PAX_GLOBAL, GNU_LONG_NAME, GNU_LONG_LINK, GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"

_LARGEST = (1 << 63) - 1
_SPARSE_MORE, _SPARSE_MORE_IN_BLOCK = 482, 504
_OCTAL = re.compile(rb"[0-7]*")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")
_TEXTS = (b"path", b"linkpath")
# Readers differ on blanks, signs and NULs around the digits, and so on the start of the next member.
_PLAIN_SIZE = re.compile(rb"[0-7]{1,11}[ \0]+|\x80.{11}", re.DOTALL)


class DamagedError(ValueError):
    """A header that Go's reader refuses; the text is the reason."""


class Format(Enum):
    """The dialect of a header."""

    V7 = "V7"
    USTAR = "ustar"
    STAR = "star"
    GNU = "GNU"


@dataclass(frozen=True, slots=True)
class Header:
    """A decoded header.

    Attributes:
        name: name with its prefix; bytes that are not UTF-8 are surrogate escapes.
        type: type byte, as written.
        size_bytes: size, as written.
        link: target of a link, as written.
        format: dialect.
        is_plain: whether all readers understand the header alike.
        is_sparse_continued: whether blocks of an old GNU sparse map follow.
    """

    name: str
    type: bytes
    size_bytes: int
    link: str
    format: Format
    is_plain: bool
    is_sparse_continued: bool


def decode_header(block: bytes) -> Header:
    """Decode a header block.

    Raises:
        DamagedError: it is not one.
    """
    _check_sum(block)
    kind = block[156:157]
    form = _find_format(block)
    for start, end in ((100, 108), (108, 116), (116, 124), (136, 148)):  # mode, uid, gid, mtime
        parse_number(block[start:end])
    if form is not Format.V7:
        parse_number(block[329:337])  # device numbers, for any type
        parse_number(block[337:345])
    if form is Format.STAR:
        parse_number(block[476:488])  # atime, ctime
        parse_number(block[488:500])
    size_bytes = parse_number(block[124:136])
    if size_bytes < 0:
        raise DamagedError("a negative size")
    name, prefix = _text(block[:100]), _find_prefix(block, form)
    return Header(
        name=f"{prefix}/{name}" if prefix else name,
        type=kind,
        size_bytes=size_bytes,
        link=_text(block[157:257]),
        format=form,
        is_plain=_is_plain(block),
        is_sparse_continued=kind == GNU_SPARSE and block[_SPARSE_MORE] > 0,
    )


def is_sparse_map_continued(block: bytes) -> bool:
    """Whether another block follows this block of an old GNU sparse map."""
    return block[_SPARSE_MORE_IN_BLOCK] > 0


def parse_number(raw: bytes) -> int:
    """Parse a numeric field: octal digits, or a binary number if the first bit is set.

    Raises:
        DamagedError: it is neither, or is more than 63 bits long.
    """
    if raw[0] & 0x80:
        negative = bool(raw[0] & 0x40)
        bits = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        number = bits - (1 << (8 * len(raw) - 1)) if negative else bits
        if not -_LARGEST <= number <= _LARGEST:
            raise DamagedError("a number of more than 63 bits")
        return number
    digits = raw.strip(b" \0").partition(b"\0")[0]
    if not _OCTAL.fullmatch(digits):
        raise DamagedError("a field that is not a number")
    return int(digits or b"0", 8)


def parse_records(data: bytes, *, strict: bool) -> dict[bytes, bytes]:
    """Parse the records of a pax extended header, each written as `LENGTH KEY=VALUE\\n`.

    Args:
        data: the content of the header.
        strict: whether to refuse records with the same key; otherwise the last one counts, as in Go.

    Raises:
        DamagedError: a record is not written this way.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        length = _PAX_LENGTH.match(data, position)
        end = position + int(length[1]) if length else 0
        key, equals, value = data[length.end() if length else end : end].partition(b"=")
        if not equals or not value.endswith(b"\n") or end > len(data) or (strict and key in records):
            raise DamagedError("a record that is not LENGTH KEY=VALUE")
        if not strict and (not key or b"\0" in (value if key in _TEXTS else key)):
            raise DamagedError("a record with a NUL byte or without a key")
        records[key] = value[:-1]
        position = end
    return records


def decode_text(raw: bytes) -> str:
    """Decode the content of a GNU long name: up to its first NUL byte."""
    return _text(raw)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _check_sum(block: bytes) -> None:
    blanked = block[:148] + b" " * 8 + block[156:]
    unsigned, stored = sum(blanked), parse_number(block[148:156])
    # Only some old programs add up signed bytes.
    if stored != unsigned and stored != unsigned - 256 * sum(byte >= 0x80 for byte in blanked):
        raise DamagedError("a wrong checksum")


def _find_format(block: bytes) -> Format:
    if block[257:263] == b"ustar\0":
        return Format.STAR if block[508:512] == b"tar\0" else Format.USTAR
    return Format.GNU if block[257:265] == b"ustar  \0" else Format.V7


def _find_prefix(block: bytes, form: Format) -> str:
    if form is Format.USTAR:
        return _text(block[345:500])
    if form is Format.STAR:
        return _text(block[345:476])
    if form is Format.GNU:
        # GNU has two times here. A bug in Go before 1.8 overwrote them with a prefix.
        try:
            for start in (345, 357):
                if block[start]:
                    parse_number(block[start : start + 12])
        except DamagedError:
            prefix = _text(block[345:500])
            return prefix if prefix.isascii() else ""
    return ""


def _is_plain(block: bytes) -> bool:
    """Whether the header is as Go writes it. POSIX has a name's prefix at 345; GNU has times there, star both."""
    posix = block[257:265] == b"ustar\x0000" and not any(block[500:])
    gnu = block[257:265] == b"ustar  \0" and not any(block[345:])
    return (posix or gnu) and block[156:157] != OLD_FILE and bool(_PLAIN_SIZE.fullmatch(block, 124, 136))
