"""Ranges of pages, and their content in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.edit import extents
from warmstart.dump.edit.extents import Extent, clip_all, find_data, read_extent, read_range

PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Return a file with the pages A, zeros, zeros, B, C."""
    path = tmp_path / "pages"
    path.write_bytes(b"A" * PAGE + bytes(2 * PAGE) + b"B" * PAGE + b"C" * PAGE)
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_clipping_keeps_the_offset() -> None:
    assert Extent(100, 200, 5000).clip(150, 300) == Extent(150, 200, 5050)
    ordered = [Extent(0, 10, 0), Extent(10, 20, 50), Extent(30, 40, 90)]
    assert clip_all(ordered, 5, 30) == [Extent(5, 10, 5), Extent(10, 20, 50)]
    assert clip_all(ordered, 20, 30) == []
    assert list(Extent(0, 25, 7).cut(10)) == [Extent(0, 10, 7), Extent(10, 20, 17), Extent(20, 25, 27)]


@pytest.mark.parametrize("chunk_pages", [1, 2, 256])
def test_zeros_are_passed_over(file: int, monkeypatch: pytest.MonkeyPatch, chunk_pages: int) -> None:
    monkeypatch.setattr(extents, "CHUNK_BYTES", chunk_pages * PAGE)
    found = list(find_data(file, [Extent(10 * PAGE, 15 * PAGE, 0)]))
    assert found == [Extent(10 * PAGE, 11 * PAGE, 0), Extent(13 * PAGE, 15 * PAGE, 3 * PAGE)]


def test_a_range_has_zeros_where_there_is_nothing(file: int) -> None:
    ordered = [Extent(0, PAGE, 0), Extent(2 * PAGE, 3 * PAGE, 4 * PAGE)]
    assert read_range(file, ordered, PAGE // 2, 3 * PAGE) == b"A" * (PAGE // 2) + bytes(PAGE) + b"C" * PAGE


def test_a_file_that_has_become_shorter_is_noticed(file: int) -> None:
    with pytest.raises(ArchiveError, match="pages: ends before offset 24576"):
        read_extent(file, Extent(0, 2 * PAGE, 4 * PAGE))
