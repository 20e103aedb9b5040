"""Large blocks of malloc are recognized by their headers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from warmstart.dump.criu.contents import PAGE_SIZE
from warmstart.dump.edit.extents import Extent, find_data
from warmstart.dump.edit.malloc_blocks import BlockFinder

START = 0x7F00_0000_0000
PAGES = 600


class Memory:
    """Resident memory of a process, filled with bytes that are not a header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = bytearray(b"\xa5" * (PAGES * PAGE_SIZE))

    def put(self, page: int, offset: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.content, page * PAGE_SIZE + offset, *words)

    def find(self, pages: int = PAGES) -> list[int]:
        """Return the first pages of all blocks in a mapping of this many pages."""
        self.path.write_bytes(self.content)
        everything = Extent(START, START + PAGES * PAGE_SIZE, 0)
        mapping = everything.clip(START, START + pages * PAGE_SIZE)
        with self.path.open("rb") as file:
            finder = BlockFinder(file.fileno(), mapping, [everything])
            assert list(find_data(file.fileno(), [mapping], finder.look)) == [mapping]
        found = finder.starts
        assert all(start % PAGE_SIZE == 0 for start in found)
        return [(start - START) // PAGE_SIZE for start in found]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "pages")


def test_nothing_but_blocks_is_found(memory: Memory) -> None:
    assert memory.find() == []


@pytest.mark.parametrize("header_bytes", [0, 16])  # left out of the size, since 2.43
@pytest.mark.parametrize("alignment", [0, 64, 128, 256, 512, 1024, 2048, 4096])
def test_a_block_of_glibc(memory: Memory, alignment: int, header_bytes: int) -> None:
    distance = max(0, alignment - 16)
    memory.put(300, distance, distance, (40 * PAGE_SIZE - distance - header_bytes) | 2)
    assert memory.find() == [300]


@pytest.mark.parametrize("header_bytes", [0, 16])
def test_a_block_of_glibc_that_is_aligned_to_many_pages(memory: Memory, header_bytes: int) -> None:
    distance = 20 * PAGE_SIZE - 16
    memory.put(219, PAGE_SIZE - 16, distance, (100 * PAGE_SIZE - distance - header_bytes) | 2)
    assert memory.find() == [200]


def test_a_block_of_glibc_in_huge_pages(memory: Memory) -> None:
    memory.put(512, 0, 1, (80 * PAGE_SIZE - 16) | 2)
    assert memory.find() == [512]


@pytest.mark.parametrize(
    "words",
    [
        (0, 40 * PAGE_SIZE | 1),  # in use before it, so no mapping of its own
        (0, 40 * PAGE_SIZE | 6),  # of another arena
        (0, 40 * PAGE_SIZE + 32 | 2),  # no whole pages
        (0, PAGE_SIZE | 2),  # of one page: there is nothing to cut
        (0, 400 * PAGE_SIZE | 2),  # longer than its mapping
        (4096, 40 * PAGE_SIZE + 48 | 2),  # not where this distance leads to
    ],
)
def test_what_is_no_block_of_glibc(memory: Memory, words: tuple[int, int]) -> None:
    memory.put(300, 0, *words)
    assert memory.find() == []


def put_musl(
    memory: Memory, page: int, size_pages: int, sizeclass: int = 63, back_to: int | None = None, meta_offset: int = 64
) -> None:
    """Add a block that the last page describes."""
    meta = (PAGES - 1) * PAGE_SIZE + meta_offset + 40 * (page % 90)
    memory.put(page, 0, START + meta, 0x00E0_0000_0000_0000)
    back = START + (page if back_to is None else back_to) * PAGE_SIZE
    memory.put(0, meta, 0, 0, back, 0, size_pages << 12 | sizeclass << 6 | 1 << 5)


def test_blocks_of_musl(memory: Memory) -> None:
    put_musl(memory, 17, 33)
    put_musl(memory, 270, 200)
    assert memory.find() == [17, 270]
    assert memory.find(PAGES - 200) == [17]  # the mapping ends before the other


@pytest.mark.parametrize(
    "spoil",
    [
        lambda memory: put_musl(memory, 17, 33, sizeclass=40),  # a group of small ones
        lambda memory: put_musl(memory, 17, 33, back_to=18),
        lambda memory: put_musl(memory, 17, 1),
        lambda memory: put_musl(memory, 17, 33, meta_offset=72),  # between two descriptions
        lambda memory: memory.put(17, 0, START - 8 * PAGE_SIZE + 64, 0),  # leads out of what is resident
    ],
)
def test_what_is_no_block_of_musl(memory: Memory, spoil: Callable[[Memory], None]) -> None:
    spoil(memory)
    assert memory.find() == []
