"""The parts of files that processes have touched."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from pathlib import Path

import pytest
from support.page_cache import find_cached_bytes

from warmstart.core.page_cache import evict
from warmstart.dump.proc.touched import MAX_GAP_BYTES, FilePart, find_touched, join_pages

PROC = Path("/proc")
# The kernel maps the pages of as much around a page fault, if they are in the page cache.
PIECE_BYTES = 64 << 10
PAGE = mmap.PAGESIZE


def test_pages_with_small_gaps_are_one_part():
    gap = MAX_GAP_BYTES // PAGE
    assert list(join_pages("/a", [7])) == [FilePart("/a", 7 * PAGE, PAGE)]
    assert list(join_pages("/a", [2, 3 + gap, 1, 5 + 2 * gap])) == [
        FilePart("/a", PAGE, (3 + gap) * PAGE),
        FilePart("/a", (5 + 2 * gap) * PAGE, PAGE),
    ]


@pytest.mark.linux
def test_only_what_was_touched_is_found(tmp_path):
    if any(os.path.ismount(parent) for parent in [*tmp_path.parents][:-1]):
        pytest.skip("the temporary directory is on a mount of its own")
    path = tmp_path / "a file"
    path.write_bytes(bytes(4 << 20))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 2 << 20, offset=1 << 20, access=mmap.ACCESS_COPY) as mapped:
        before = [part for part in find_touched(PROC, os.getpid()) if part.path == str(path)]
        mapped[5 * PIECE_BYTES + 1]  # read
        mapped[6 * PIECE_BYTES] = 1  # copied
        found = find_touched(PROC, os.getpid())
    assert before == []
    parts = [part for part in found if part.path == str(path)]
    for page in ((1 << 20) + 5 * PIECE_BYTES, (1 << 20) + 6 * PIECE_BYTES):
        assert [part for part in parts if part.start <= page < part.start + part.size]
    assert sum(part.size for part in parts) <= 2 * PIECE_BYTES + MAX_GAP_BYTES + PAGE


@pytest.mark.linux
def test_single_pages_are_found_if_no_others_are_in_the_page_cache(tmp_path):
    if any(os.path.ismount(parent) for parent in [*tmp_path.parents][:-1]):
        pytest.skip("the temporary directory is on a mount of its own")
    path = tmp_path / "a file"
    path.write_bytes(bytes(4 << 20))
    evict(path)
    if find_cached_bytes(path):
        pytest.skip("the file system of the temporary directory is in memory")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        mapped[5 * PIECE_BYTES + 1]  # read
        mapped[6 * PIECE_BYTES + PAGE] = 1  # copied
        found = find_touched(PROC, os.getpid())
        of_memory = find_touched(PROC, os.getpid(), [str(path)])
    start, read, changed = (FilePart(str(path), at, PAGE) for at in (0, 5 * PIECE_BYTES, 6 * PIECE_BYTES + PAGE))
    assert [part for part in found if part.path == str(path)] == [start, changed, read]
    assert [part for part in of_memory if part.path == str(path)] == [read, changed]


@pytest.mark.linux
def test_what_criu_reads_of_all_files_comes_before_all_others():
    found = find_touched(PROC, os.getpid())
    ends = [number for number in range(1, len(found)) if found[number].path != found[number - 1].path]
    runs = [found[start:end] for start, end in pairwise([0, *ends, len(found)])]
    sizes = [sum(part.size for part in run) for run in runs]
    # Those of this process are many: the interpreter and its libraries.
    second = next(number for number in range(1, len(sizes)) if sizes[number] > sizes[number - 1])
    for group in (slice(0, second), slice(second, None)):
        assert sizes[group] == sorted(sizes[group], reverse=True)
    paths = [run[0].path for run in runs]
    assert len(set(paths[:second])) == second > 1
    assert len(set(paths[second:])) == len(paths) - second


@pytest.mark.linux
def test_files_that_are_gone_or_on_other_mounts_are_left_out(tmp_path):
    shared = Path("/dev/shm") / f"warmstart-{os.getpid()}"
    gone = tmp_path / "gone"
    try:
        for path in (shared, gone):
            path.write_bytes(bytes(PIECE_BYTES))
        with shared.open("rb") as one, gone.open("rb") as other:
            maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in (one, other)]
        gone.unlink()
        assert all(each[0] == 0 for each in maps)
        found = {part.path for part in find_touched(PROC, os.getpid())}
        assert not any(path.startswith((str(shared), str(gone))) for path in found)
    finally:
        shared.unlink()


@pytest.mark.linux
def test_a_process_that_does_not_exist_is_an_error():
    with pytest.raises(ProcessLookupError):
        find_touched(PROC, 1 << 30)
