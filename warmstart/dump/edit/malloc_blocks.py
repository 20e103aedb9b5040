"""Find large blocks of malloc(3). realloc(3) enlarges them with mremap(2) if possible.

An enlarged file mapping shows the next bytes of the file, and every access beyond the end of the file is a SIGBUS. But
mremap refuses to resize two mappings at once (EFAULT), and both C libraries then allocate a new block and copy. So each
of these blocks must consist of more than one mapping when it is mapped from a file.

- glibc has a header at the block's start, or after it if alignment has moved it (`mmap_chunk`, `mremap_chunk`,
  `memalign` in malloc/malloc.c of https://sourceware.org/git/glibc.git). It holds the distance from the block's start,
  and the size with IS_MMAPPED as its only flag. Since 2.43 the size leaves out the 16 bytes of the header itself.
- musl has at the block's start a pointer to a description that points back (`struct group` and `struct meta` in
  src/malloc/mallocng/meta.h of https://git.musl-libc.org/cgit/musl). The size class of these blocks is 63.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

from warmstart.dump.criu.contents import PAGE_SIZE
from warmstart.dump.edit.extents import Extent, Range, clip_all, read_range

_WORD = 8
_PAGE_WORDS = PAGE_SIZE // _WORD
_IS_MMAPPED, _SIZE_FLAGS = 2, 7
# For each value of a size's lowest byte, whether its flags are those of a large block.
_MMAPPED = bytes(byte & _SIZE_FLAGS == _IS_MMAPPED for byte in range(256))
_FIND_MMAPPED = re.compile(b"\1").finditer
_USES_HUGE_PAGES = 1
_HEADER_BYTES = 16
# Possible offsets of a header in a page: the data after it is aligned to 16 bytes at the start of a block, or to a
# power of 2.
_HEADERS = (0, *(alignment - _HEADER_BYTES for alignment in (32, 64, 128, 256, 512, 1024, 2048, 4096)))
# prev, next; mem; two masks; last_idx (5 bits), freeable (1), sizeclass (6), maplen.
_META = struct.Struct("<16xQ8xQ")
# Descriptions follow each other in pages of their own, after such a header (`struct meta_area`).
_META_AREA_BYTES = 24
_SINGLE = 63
# After the pointer: active_idx, always 0, and padding; then the bytes that `enframe` puts before the first slot.
_UNUSED = 0xFFFFFFFF


class BlockFinder:
    """Finds the large blocks in a mapping, while its memory is read. There may be false positives.

    Args:
        file: file descriptor of the pages file.
        mapping: range to search.
        resident: resident extents of the whole process.
    """

    def __init__(self, file: int, mapping: Range, resident: Sequence[Extent]) -> None:
        self._file = file
        self._mapping = mapping
        self._resident = resident
        self._found: set[int] = set()

    @property
    def starts(self) -> list[int]:
        """Start addresses of the blocks, in order."""
        return sorted(self._found)

    def look(self, part: Extent, content: bytearray) -> None:
        """Search a part of the mapping, whole pages, at the start of `content`.

        Raises:
            ArchiveError: as for `read_extent`.
        """
        words = memoryview(content)[: part.size].cast("Q")
        for blocks in (
            _find_of_glibc(content, words, part.start),
            _find_of_musl(words, part.start, self._file, self._resident),
        ):
            for start, size in blocks:
                if self._mapping.start <= start and start + size <= self._mapping.end:
                    self._found.add(start)


def _find_of_glibc(content: bytearray, words: memoryview[int], address: int) -> Iterator[tuple[int, int]]:
    for header in _HEADERS:
        first = header // _WORD
        # Of each page, the lowest byte of the size: all pages at once, for this is done to all of the memory.
        for found in _FIND_MMAPPED(content[header + _WORD : words.nbytes : PAGE_SIZE].translate(_MMAPPED)):
            index = found.start()
            distance = words[first + index * _PAGE_WORDS] & ~_USES_HUGE_PAGES
            size = distance + (words[first + 1 + index * _PAGE_WORDS] & ~_SIZE_FLAGS)
            size += -size % PAGE_SIZE if -size % PAGE_SIZE == _HEADER_BYTES else 0
            if distance % PAGE_SIZE == header and size % PAGE_SIZE == 0 and size > PAGE_SIZE:
                yield address + index * PAGE_SIZE + header - distance, size


def _find_of_musl(
    words: memoryview[int], address: int, file: int, resident: Sequence[Extent]
) -> Iterator[tuple[int, int]]:
    pointers = words[::_PAGE_WORDS].tolist()
    lowest, highest = resident[0].start, resident[-1].end
    # Most pages are out of the question by then.
    for index in [index for index, rest in enumerate(words[1::_PAGE_WORDS].tolist()) if not rest & _UNUSED]:
        meta = pointers[index]
        if (meta % PAGE_SIZE - _META_AREA_BYTES) % _META.size or not lowest <= meta < highest:
            continue
        if not clip_all(resident, meta, meta + 1):
            continue
        start = address + index * PAGE_SIZE
        points_to, bits = _META.unpack(read_range(file, resident, meta, meta + _META.size))
        if points_to == start and bits >> 6 & 0x3F == _SINGLE and bits >> 12 > 1:
            yield start, (bits >> 12) * PAGE_SIZE
