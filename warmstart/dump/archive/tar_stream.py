"""Read a tar from a stream, such as a layer that is decompressed while it is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NoReturn, Protocol

from warmstart.core.errors import ArchiveError
from warmstart.dump.archive.tarball import Member, quoted

_CHUNK_BYTES = 1 << 20


class Stream(Protocol):
    """Content that is read sequentially."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        ...


class StreamedTar:
    """A tar that arrives in a stream.

    Only forward reading is possible, starting at or after the start of the last `read`. Bytes between are dropped.
    """

    start = 0
    end = sys.maxsize

    def __init__(self, stream: Stream, label: str) -> None:
        self._stream = stream
        self._kept = b""
        self._kept_at = 0
        self.label = label

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        """Raise an ArchiveError about this tar."""
        raise ArchiveError(f"{self.label}: {problem}", hint=hint)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Read `size_bytes` bytes from `offset`; fewer only at the end of the stream."""
        self._skip_to(offset)
        while (missing := size_bytes - len(self._kept)) > 0:
            data = self._stream.read(missing)
            if not data:
                break
            self._kept += data
        return self._kept[:size_bytes]

    def read_content(self, member: Member, *, skip_bytes: int = 0) -> Iterator[bytes]:
        """Yield the content of the most recently listed member, from byte `skip_bytes`, in chunks.

        Raises:
            ArchiveError: the stream ends before the content does.
        """
        at, end = member.offset + skip_bytes, member.offset + member.size_bytes
        while at < end:
            piece = self.read(at, min(end - at, _CHUNK_BYTES))
            if not piece:
                self.refuse(f"ends within {quoted(member.name)}: it is truncated")
            at += len(piece)
            yield piece

    def reaches(self, offset: int) -> bool:
        """Whether `offset` bytes have arrived."""
        return self._kept_at + len(self._kept) >= offset

    def _skip_to(self, offset: int) -> None:
        assert offset >= self._kept_at, "a stream does not go back"
        dropped = min(offset - self._kept_at, len(self._kept))
        self._kept = self._kept[dropped:]
        self._kept_at += dropped
        while self._kept_at < offset:
            data = self._stream.read(min(offset - self._kept_at, _CHUNK_BYTES))
            if not data:
                return
            self._kept_at += len(data)
