"""The parts of files that processes have touched."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from warmstart.dump.proc.touched import PIECE_BYTES, FilePart, find_touched, join_pieces

PROC = Path("/proc")


def test_neighbouring_pieces_are_one_part():
    assert list(join_pieces("/a", [])) == []
    assert list(join_pieces("/a", [7, 1, 2, 3])) == [
        FilePart("/a", PIECE_BYTES, 3 * PIECE_BYTES),
        FilePart("/a", 7 * PIECE_BYTES, PIECE_BYTES),
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
    # The pages that the kernel maps around a fault are neighbours in memory, which may be of two pieces.
    first, end = (1 << 20) + 5 * PIECE_BYTES, (1 << 20) + 7 * PIECE_BYTES
    assert [part for part in parts if part.start <= first and end <= part.start + part.size] == parts
    assert 2 * PIECE_BYTES <= sum(part.size for part in parts) <= 4 * PIECE_BYTES
    sizes = {part.path: 0 for part in found}
    for part in found:
        sizes[part.path] += part.size
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


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
