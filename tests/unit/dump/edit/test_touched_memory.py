"""Parts of the memory file are mapped from a second one, and the processes see the same content."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import PAGE_SIZE, VmaStatus, read_files, read_mappings
from warmstart.dump.criu.entries import Entry, write_image
from warmstart.dump.edit import touched_memory
from warmstart.dump.edit.touched_memory import MAX_GAP_BYTES, TouchedMemory, choose_touched, map_touched

MEMORY, TOUCHED = "/.warmstart/memory", "/.warmstart/memory-touched"
MAPPED = VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE
GAP_PAGES = MAX_GAP_BYTES // PAGE_SIZE
SIZE_PAGES = 400
# Of a process: start, end and place in the memory file of each mapping, in pages.
Places = list[tuple[int, int, int]]


def make_dump(directory: Path, processes: dict[int, tuple[int, Places]]) -> Path:
    """Make a dump of processes, by number: their parents, and their mappings of the memory file."""

    def write(name: str, *messages: object) -> None:
        write_image(directory / name, [Entry(message.SerializeToString()) for message in messages])

    write("inventory.img", protos.Inventory(img_version=2))
    write("pstree.img", *(protos.Process(pid=pid, ppid=ppid, threads=[pid]) for pid, (ppid, _) in processes.items()))
    write("files.img", make_file(7, "/", 0), make_file(8, MEMORY, SIZE_PAGES * PAGE_SIZE))
    for pid, (_, places) in processes.items():
        core = protos.Core()
        core.tc.comm = b"made"
        write(f"core-{pid}.img", core)
        other = make_vma(0, 1, 0, status=VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE, shmid=8)
        # Of another file.
        program = make_vma(1, 2, 0, shmid=7)
        vmas = [other, program, *(make_vma(*place) for place in places)]
        write(f"mm-{pid}.img", protos.Mm(mm_arg_start=0, mm_arg_end=0, exe_file_id=7, vmas=vmas))
        write(f"pagemap-{pid}.img", protos.PagemapHead(pages_id=pid))
        (directory / f"pages-{pid}.img").write_bytes(b"")
    return directory


def make_file(number: int, name: str, size: int) -> protos.File:
    file = protos.File(type=1, id=number)
    file.reg.id, file.reg.flags, file.reg.pos, file.reg.name, file.reg.mnt_id = number, 0, 0, name.encode(), 42
    file.reg.size, file.reg.mode = size, 0o100400
    for field in ("uid", "euid", "signum", "pid_type", "pid"):
        setattr(file.reg.fown, field, 0)
    return file


def make_vma(start: int, end: int, place: int, **fields: int) -> protos.Vma:
    known = {"prot": 3, "flags": 2, "status": MAPPED, "shmid": 8, "fd": -1, "madv": 4}
    at = (start * PAGE_SIZE, end * PAGE_SIZE, place * PAGE_SIZE)
    return protos.Vma(start=at[0], end=at[1], pgoff=at[2], **{**known, **fields})


def look_at(directory: Path, pid: int, touched: TouchedMemory) -> dict[int, int]:
    """Return the page of the memory file that a process has at each page of its addresses."""
    back = {
        part.offset // PAGE_SIZE + page: part.start // PAGE_SIZE + page
        for part in touched.parts
        for page in range(part.size // PAGE_SIZE)
    }
    seen: dict[int, int] = {}
    for mapping in read_mappings(directory, pid):
        for page in range((mapping.end - mapping.start) // PAGE_SIZE):
            place = mapping.file_offset // PAGE_SIZE + page
            if mapping.file in (MEMORY, TOUCHED):
                seen[mapping.start // PAGE_SIZE + page] = back[place] if mapping.file == TOUCHED else place
    return seen


def choose(*ranges: tuple[int, int]) -> TouchedMemory:
    pages = [(start * PAGE_SIZE, end * PAGE_SIZE) for start, end in ranges]
    return choose_touched(pages, SIZE_PAGES * PAGE_SIZE)


def test_near_ranges_are_joined_and_the_kernel_cannot_merge_the_others():
    far = 20 + GAP_PAGES + 1
    touched = choose((far, far + 1), (2, 4), (4 + GAP_PAGES, 20), (SIZE_PAGES - 1, SIZE_PAGES + 5))
    parts = [(part.start // PAGE_SIZE, part.end // PAGE_SIZE, part.offset // PAGE_SIZE) for part in touched.parts]
    assert parts == [(2, 20, 0), (far, far + 1, 19), (SIZE_PAGES - 1, SIZE_PAGES, 21)]
    assert touched.size_bytes == 22 * PAGE_SIZE


def test_parts_of_pages_are_whole_pages():
    [part] = choose_touched([(PAGE_SIZE + 1, PAGE_SIZE + 2)], 4 * PAGE_SIZE).parts
    assert (part.start, part.end) == (PAGE_SIZE, 2 * PAGE_SIZE)


def test_touched_parts_are_mapped_from_the_second_file(tmp_path):
    dump = make_dump(tmp_path, {5: (0, [(10, 110, 0), (120, 320, 100)])})
    touched = choose((0, 1), (90, 101), (200, 220), (350, 360))
    before = look_at(dump, 5, touched)
    assert map_touched(dump, MEMORY, touched, TOUCHED)
    assert look_at(dump, 5, touched) == before
    mappings = read_mappings(dump, 5)
    pages = [(mapping.start // PAGE_SIZE, mapping.end // PAGE_SIZE) for mapping in mappings if mapping.file == TOUCHED]
    assert pages == [(10, 11), (100, 110), (120, 121), (220, 240)]
    assert {mapping.advice for mapping in mappings if mapping.file == TOUCHED} == {4}
    added = read_files(dump)[9].reg
    assert (added.name, added.size, added.mode, added.mnt_id) == (TOUCHED.encode(), touched.size_bytes, 0o100400, 42)


def test_random_parts(tmp_path):
    drawn = random.Random(1)
    for number in range(20):
        directory = tmp_path / str(number)
        directory.mkdir()
        dump = make_dump(directory, {5: (0, [(10, 110, 30), (110, 240, 200)])})
        starts = [drawn.randrange(SIZE_PAGES) for _ in range(8)]
        touched = choose(*((start, start + drawn.randrange(1, 20)) for start in starts))
        before = look_at(dump, 5, touched)
        assert map_touched(dump, MEMORY, touched, TOUCHED)
        assert look_at(dump, 5, touched) == before


def test_a_child_that_shares_content_with_its_parent(tmp_path):
    dump = make_dump(tmp_path, {5: (0, [(10, 60, 0)]), 6: (5, [(10, 40, 0), (40, 60, 200)])})
    touched = choose((0, 10))
    before = [look_at(dump, pid, touched) for pid in (5, 6)]
    assert map_touched(dump, MEMORY, touched, TOUCHED)
    assert [look_at(dump, pid, touched) for pid in (5, 6)] == before


@pytest.mark.parametrize(
    "touched", [((0, 20), (200, 220)), ((20, 50),)], ids=["of the second file", "of the memory file"]
)
def test_content_of_a_parent_never_takes_the_place_of_a_childs(tmp_path, touched):
    # At the same addresses as its parent, a child has something else; CRIU does not compare the offsets.
    dump = make_dump(tmp_path, {5: (0, [(10, 60, 0)]), 6: (5, [(10, 30, 200), (31, 60, 220)])})
    before = {file.name: file.read_bytes() for file in dump.iterdir()}
    assert not map_touched(dump, MEMORY, choose(*touched), TOUCHED)
    assert {file.name: file.read_bytes() for file in dump.iterdir()} == before


def test_a_dump_without_the_file_or_touched_parts_is_left_as_it_is(tmp_path):
    dump = make_dump(tmp_path, {5: (0, [(10, 60, 0)])})
    assert not map_touched(dump, "/other", choose((0, 10)), TOUCHED)
    assert not map_touched(dump, MEMORY, choose(), TOUCHED)


def test_a_process_never_gets_too_many_mappings(tmp_path, monkeypatch):
    dump = make_dump(tmp_path, {5: (0, [(10, 60, 0)])})
    monkeypatch.setattr(touched_memory, "MAX_MAPPINGS", 4)
    assert not map_touched(dump, MEMORY, choose((10, 20)), TOUCHED)
    assert map_touched(dump, MEMORY, choose((0, 20)), TOUCHED)
