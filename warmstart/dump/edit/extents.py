"""Ranges of pages of a process, and their content in a file."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu.contents import PAGE_SIZE

# Maximum held in memory at a time.
CHUNK_BYTES = 1 << 20

_ZERO_PAGE = bytes(PAGE_SIZE)


class Range(Protocol):
    """A range from a start address to an end address, exclusive."""

    @property
    def start(self) -> int:
        """Address of the first byte."""

    @property
    def end(self) -> int:
        """Address after the last byte."""


AnyRange = TypeVar("AnyRange", bound=Range)


@dataclass(frozen=True, slots=True)
class Extent:
    """Addresses of consecutive pages and their offset in a file, all in bytes."""

    start: int
    end: int
    offset: int

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.end - self.start

    def clip(self, start: int, end: int) -> Extent:
        """Return the part between two addresses."""
        begin = max(self.start, start)
        return Extent(begin, min(self.end, end), self.offset + begin - self.start)

    def cut(self, size: int) -> Iterator[Extent]:
        """Split into parts of the given size; the last may be smaller."""
        return (self.clip(at, at + size) for at in range(self.start, self.end, size))


def find_overlapping(ranges: Sequence[AnyRange], start: int, end: int) -> Sequence[AnyRange]:
    """Find the ranges of an ordered list that overlap with an address range."""
    first = bisect_right(ranges, start, key=lambda each: each.end)
    last = bisect_left(ranges, end, key=lambda each: each.start)
    return ranges[first:last]


def clip_all(extents: Sequence[Extent], start: int, end: int) -> list[Extent]:
    """Clip ordered extents to an address range."""
    return [extent.clip(start, end) for extent in find_overlapping(extents, start, end)]


def cut_all(extents: Iterable[Extent], addresses: Sequence[int]) -> Iterator[Extent]:
    """Cut ordered extents at ordered addresses."""
    for extent in extents:
        inside = addresses[bisect_right(addresses, extent.start) : bisect_left(addresses, extent.end)]
        yield from (extent.clip(start, end) for start, end in pairwise([extent.start, *inside, extent.end]))


def sum_sizes(extents: Iterable[Extent]) -> int:
    """Sum the sizes of all extents, in bytes."""
    return sum(extent.size for extent in extents)


def find_data(file: int, extents: Iterable[Extent]) -> Iterator[Extent]:
    """Find the parts that are not zero pages.

    Raises:
        ArchiveError: as for `read_extent`.
    """
    for extent in extents:
        begin = -1
        for part in extent.cut(CHUNK_BYTES):
            chunk = read_extent(file, part)
            for page in range(0, part.size, PAGE_SIZE):
                is_zero = chunk[page : page + PAGE_SIZE] == _ZERO_PAGE
                if is_zero and begin >= 0:
                    yield extent.clip(begin, part.start + page)
                    begin = -1
                elif not is_zero and begin < 0:
                    begin = part.start + page
        if begin >= 0:
            yield extent.clip(begin, extent.end)


def read_extent(file: int, extent: Extent) -> bytes:
    """Read an extent at once; it should be small.

    Raises:
        ArchiveError: the file ends before the end of the extent.
    """
    content = os.pread(file, extent.size, extent.offset)
    if len(content) != extent.size:
        raise _early_end(file, extent)
    return content


def read_range(file: int, extents: Sequence[Extent], start: int, end: int) -> bytearray:
    """Read an address range, with zeros for the gaps between the extents.

    Raises:
        ArchiveError: as for `read_extent`.
    """
    memory = bytearray(end - start)
    view = memoryview(memory)
    for extent in clip_all(extents, start, end):
        part = view[extent.start - start : extent.end - start]
        if os.preadv(file, [part], extent.offset) != extent.size:
            raise _early_end(file, extent)
    return memory


def write_at(file: int, content: bytes | bytearray, offset: int) -> None:
    """Write all the content; a single system call may write less if the disk is nearly full."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written


def _early_end(file: int, extent: Extent) -> ArchiveError:
    name = Path(f"/proc/self/fd/{file}").readlink()
    return ArchiveError(f"{name}: ends before offset {extent.offset + extent.size}")
