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
from warmstart.dump.edit.extents import CHUNK_BYTES, Extent, Range, clip_all, read_extent, read_range

_WORD = 8
_PAGE_WORDS = PAGE_SIZE // _WORD
_IS_MMAPPED, _SIZE_FLAGS = 2, 7
# For each value of a size's lowest byte, whether its flags are those of a large block.
_MMAPPED = bytes(byte & _SIZE_FLAGS == _IS_MMAPPED for byte in range(256))
_USES_HUGE_PAGES = 1
_HEADER_BYTES = 16
# Possible offsets of a header in a page: the data after it is aligned to 16 bytes at the start of a block, or to a
# power of 2.
_HEADERS = (0, *(alignment - _HEADER_BYTES for alignment in (32, 64, 128, 256, 512, 1024, 2048, 4096)))
# prev, next; mem; two masks; last_idx (5 bits), freeable (1), sizeclass (6), maplen.
_META = struct.Struct("<16xQ8xQ")
_SINGLE = 63
# After the pointer: active_idx, always 0, and padding; then the bytes that `enframe` puts before the first slot.
_UNUSED = 0xFFFFFFFF


def find_blocks(file: int, data: Sequence[Extent], mapping: Range, resident: Sequence[Extent]) -> list[int]:
    """Find the start addresses of the large blocks in a mapping, in order. There may be false positives.

    Args:
        file: file descriptor of the pages file.
        data: resident extents of the mapping.
        mapping: range to search.
        resident: resident extents of the whole process.

    Raises:
        ArchiveError: as for `read_extent`.
    """
    found = {
        start
        for extent in data
        for part in extent.cut(CHUNK_BYTES)
        for start, size in _find_in_part(file, part, resident)
        if mapping.start <= start and start + size <= mapping.end
    }
    return sorted(found)


def _find_in_part(file: int, part: Extent, resident: Sequence[Extent]) -> Iterator[tuple[int, int]]:
    content = read_extent(file, part)
    words = memoryview(content).cast("Q")
    yield from _find_of_glibc(content, words, part.start)
    yield from _find_of_musl(words, part.start, file, resident)


def _find_of_glibc(content: bytes, words: memoryview[int], address: int) -> Iterator[tuple[int, int]]:
    for header in _HEADERS:
        first = header // _WORD
        # Of each page, the lowest byte of the size: all pages at once, for this is done to all of the memory.
        for found in re.finditer(b"\1", content[header + _WORD :: PAGE_SIZE].translate(_MMAPPED)):
            index = found.start()
            distance = words[first + index * _PAGE_WORDS] & ~_USES_HUGE_PAGES
            size = distance + (words[first + 1 + index * _PAGE_WORDS] & ~_SIZE_FLAGS)
            size += -size % PAGE_SIZE if -size % PAGE_SIZE == _HEADER_BYTES else 0
            if distance % PAGE_SIZE == header and size % PAGE_SIZE == 0 and size > PAGE_SIZE:
                yield address + index * PAGE_SIZE + header - distance, size


def _find_of_musl(
    words: memoryview[int], address: int, file: int, resident: Sequence[Extent]
) -> Iterator[tuple[int, int]]:
    pairs = zip(words[::_PAGE_WORDS].tolist(), words[1::_PAGE_WORDS].tolist(), strict=True)
    lowest, highest = resident[0].start, resident[-1].end
    for index, (meta, rest) in enumerate(pairs):
        # Most pages are out of the question by then.
        if rest & _UNUSED or meta % _WORD or not lowest <= meta < highest:
            continue
        if not clip_all(resident, meta, meta + 1):
            continue
        start = address + index * PAGE_SIZE
        points_to, bits = _META.unpack(read_range(file, resident, meta, meta + _META.size))
        if points_to == start and bits >> 6 & 0x3F == _SINGLE and bits >> 12 > 1:
            yield start, (bits >> 12) * PAGE_SIZE
