"""Formats of layers that a snapshotter can read chunk by chunk: eStargz, and zstd:chunked.

Both are ordinary compressed tars whose chunks are compressed one by one. At the end, they have a table of contents in
JSON, and a footer with its offset. In eStargz, the table is the tar's last file. In zstd:chunked, it follows the tar.
Formats: https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md, and `estargz/zstdchunked` there.
"""

from __future__ import annotations

import gzip
import struct
import tarfile
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import zstandard

from warmstart.image.compose import OCI_LAYER_ZSTD
from warmstart.recipe.model import Compression, Lazy

OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
#: The table of contents of an eStargz layer.
TOC = "stargz.index.json"
# 117 MiB of a Java process take 1.7 s of one processor at level 1 (36.4 MiB), 2.4 s at 4 (33.3 MiB) and 4.7 s at 6
# (31.7 MiB).
GZIP_LEVELS = {Compression.FAST: 4, Compression.SMALL: 6}
# 289 MiB of Ubuntu with a JRE take 4 s of one processor at level 3 (99.5 MiB), and 13 s at 6 (94.1 MiB).
ZSTD_LEVELS = {Compression.FAST: 3, Compression.SMALL: 12}
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)
# RFC 8878, section 3.1.2.
_SKIPPABLE_HEADER = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_ZSTD_CHUNKED = b"GnUlInUx"
_TYPE_OF_STARGZ = 1


class End(NamedTuple):
    """The end of a layer: of its tar, and of its blob, which has that and more."""

    tar: bytes
    blob: bytes


class ChunkFormat(Protocol):
    """A format: how chunks are compressed, and how a layer ends."""

    @property
    def media_type(self) -> str:
        """Return the media type of a layer."""

    def pack(self, data: bytes) -> bytes:
        """Compress a part of the tar by itself."""

    def make_end(self, toc: bytes, offset: int) -> End:
        """Make the end of a layer with a table of contents, at this offset in the blob."""


@dataclass(frozen=True)
class Estargz:
    """A chunk is a gzip member."""

    level: int
    media_type: ClassVar[str] = OCI_LAYER_GZIP

    def pack(self, data: bytes) -> bytes:
        """Return a gzip member; without a time, so that the same content always gives the same blob."""
        return gzip.compress(data, self.level, mtime=0)

    def make_end(self, toc: bytes, offset: int) -> End:
        """Make a file of the table of contents, and an empty gzip member whose extra field has the offset."""
        info = tarfile.TarInfo(TOC)
        info.size = len(toc)
        tar = info.tobuf() + toc + bytes(-len(toc) % tarfile.BLOCKSIZE) + _TAR_END
        field = f"{offset:016x}STARGZ".encode()
        extra = struct.pack("<2sH", b"SG", len(field)) + field
        footer = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(extra)) + extra
        return End(tar, self.pack(tar) + footer + b"\x01\x00\x00\xff\xff" + bytes(8))


@dataclass(frozen=True)
class ZstdChunked:
    """A chunk is a zstd frame. Decompressors skip the table of contents and the footer."""

    level: int
    media_type: ClassVar[str] = OCI_LAYER_ZSTD

    def pack(self, data: bytes) -> bytes:
        """Return a zstd frame."""
        return zstandard.ZstdCompressor(level=self.level).compress(data)

    def make_end(self, toc: bytes, offset: int) -> End:
        """Make two skippable frames: the table of contents, as a zstd frame, and its offset and sizes."""
        end, table = self.pack(_TAR_END), self.pack(toc)
        inside = offset + len(end) + _SKIPPABLE_HEADER.size
        footer = struct.pack("<QQQQ", inside, len(table), len(toc), _TYPE_OF_STARGZ) + _ZSTD_CHUNKED
        return End(_TAR_END, end + _make_skippable_frame(table) + _make_skippable_frame(footer))


def _make_skippable_frame(content: bytes) -> bytes:
    return _SKIPPABLE_HEADER.pack(_SKIPPABLE_MAGIC, len(content)) + content


def find_format(lazy: Lazy, compression: Compression) -> ChunkFormat:
    """Return the format that a recipe asks for."""
    if lazy is Lazy.ZSTD_CHUNKED:
        return ZstdChunked(ZSTD_LEVELS[compression])
    return Estargz(GZIP_LEVELS[compression])
