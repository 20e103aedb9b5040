"""Ranges of pages of a process, and their content in a file."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu.contents import PAGE_SIZE, Pagemap

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


def list_resident(pagemap: Pagemap) -> list[Extent]:
    """List the pages of a process that are in its pages file, with their offsets in it."""
    return [Extent(run.start, run.end, run.offset) for run in pagemap.runs if run.offset is not None]


def sum_sizes(extents: Iterable[Extent]) -> int:
    """Sum the sizes of all extents, in bytes."""
    return sum(extent.size for extent in extents)


def find_data(
    file: int, extents: Iterable[Extent], look: Callable[[Extent, bytearray], object] = lambda _extent, _content: None
) -> Iterator[Extent]:
    """Find the parts that are not zero pages.

    Args:
        file: file descriptor.
        extents: extents to search.
        look: called with each piece of them that is read, and a buffer that begins with its content, which is gone
            after the call; reading all of it twice takes as long again.

    Raises:
        ArchiveError: as for `read_extent`.
    """
    # One buffer for all: the kernel would have to clear new memory for each piece.
    buffer = bytearray(CHUNK_BYTES)
    for extent in extents:
        begin = extent.start
        for part in extent.cut(CHUNK_BYTES):
            content = memoryview(buffer)[: part.size]
            _read_into(file, part, content)
            look(part, buffer)
            for page in _find_zero_pages(buffer, content):
                if begin < part.start + page:
                    yield extent.clip(begin, part.start + page)
                begin = part.start + page + PAGE_SIZE
        if begin < extent.end:
            yield extent.clip(begin, extent.end)


def _find_zero_pages(buffer: bytearray, content: memoryview) -> list[int]:
    """Return the offsets of the zero pages in `content`, the first bytes of `buffer`."""
    first_words = content.cast("Q")[:: PAGE_SIZE // 8].tolist()
    offsets = (index * PAGE_SIZE for index, word in enumerate(first_words) if not word)
    return [offset for offset in offsets if buffer.startswith(_ZERO_PAGE, offset)]


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
    fill_range(file, extents, start, memoryview(memory))
    return memory


def fill_range(file: int, extents: Sequence[Extent], start: int, target: memoryview) -> None:
    """Read the address range from `start` that fills `target`, with zeros for the gaps between the extents.

    Raises:
        ArchiveError: as for `read_extent`.
    """
    at = 0
    for extent in clip_all(extents, start, start + len(target)):
        begin = extent.start - start
        target[at:begin] = bytes(begin - at)
        at = begin + extent.size
        _read_into(file, extent, target[begin:at])
    target[at:] = bytes(len(target) - at)


def _read_into(file: int, extent: Extent, target: memoryview) -> None:
    if os.preadv(file, [target], extent.offset) != extent.size:
        raise _early_end(file, extent)


def _early_end(file: int, extent: Extent) -> ArchiveError:
    name = Path(f"/proc/self/fd/{file}").readlink()
    return ArchiveError(f"{name}: ends before offset {extent.offset + extent.size}")
