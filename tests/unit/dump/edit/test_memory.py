"""After memory is moved out of a dump, restored processes see the same content as before."""

from __future__ import annotations

import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.memory_file import map_to_file
from support.once import MakeOnce

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import (
    PAGE_SIZE,
    Mapping,
    Pagemap,
    Process,
    VmaStatus,
    read_files,
    read_mappings,
    read_pagemap,
    read_processes,
    sum_pages_bytes,
)
from warmstart.dump.criu.entries import Entry, write_image
from warmstart.dump.edit import memory
from warmstart.dump.edit.memory import MappedMemory, MemoryContent, map_memory

ANONYMOUS = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
PRIVATE_ANONYMOUS = VmaStatus.REGULAR | VmaStatus.ANON_PRIVATE
PATH = "/memory.bin"


# ---- a dump made by hand, small


def page(number: int) -> bytes:
    """Return a page whose content depends on the number. Page 0 is all zeros."""
    return number.to_bytes(4, "little") * (PAGE_SIZE // 4)


def vma(start_page: int, end_page: int, **fields: int) -> protos.Vma:
    known = {"prot": 3, "flags": ANONYMOUS, "status": PRIVATE_ANONYMOUS, "pgoff": 0, "shmid": 0, "fd": -1}
    return protos.Vma(start=start_page * PAGE_SIZE, end=end_page * PAGE_SIZE, **{**known, **fields})


def add_process(dump: Path, pid: int, vmas: Sequence[protos.Vma], pages: dict[int, int], flags: int = 6) -> None:
    """Write the files of a process. `pages` maps numbers of resident pages to numbers of their content."""

    def write(name: str, *messages: object) -> None:
        write_image(dump / name, [Entry(message.SerializeToString()) for message in messages])

    core = protos.Core()
    core.tc.comm = b"made"
    write(f"core-{pid}.img", core)
    write(f"fs-{pid}.img", protos.Fs(root_id=7))
    write(f"mm-{pid}.img", protos.Mm(mm_arg_start=0, mm_arg_end=0, exe_file_id=7, vmas=vmas))
    runs: list[list[int]] = []
    for number in sorted(pages):
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    entries = [protos.Pagemap(vaddr=a * PAGE_SIZE, compat_nr_pages=0, flags=flags, nr_pages=b - a) for a, b in runs]
    write(f"pagemap-{pid}.img", protos.PagemapHead(pages_id=pid), *entries)
    (dump / f"pages-{pid}.img").write_bytes(b"".join(page(pages[number]) for number in sorted(pages)))


def make_dump(directory: Path, parents: dict[int, int]) -> Path:
    """Write the files of a dump that do not belong to a process."""
    directory.mkdir()
    write_image(directory / "inventory.img", [Entry(protos.Inventory(img_version=2).SerializeToString())])
    tree = [protos.Process(pid=pid, ppid=ppid, threads=[pid]) for pid, ppid in parents.items()]
    write_image(directory / "pstree.img", [Entry(process.SerializeToString()) for process in tree])
    root = protos.File(type=1, id=7)
    root.reg.id, root.reg.flags, root.reg.pos, root.reg.name, root.reg.mnt_id = 7, 0, 0, b"/", 42
    for name in ("uid", "euid", "signum", "pid_type", "pid"):
        setattr(root.reg.fown, name, 0)
    write_image(directory / "files.img", [Entry(root.SerializeToString())])
    return directory


def look_at(dump: Path, pid: int, memory_file: Path | None = None) -> dict[int, bytes]:
    """Return the content that a restored process sees, by page number, without pages of zeros.

    For a page of a file of the image, the content is the page's position in the file.
    """
    seen: dict[int, bytes] = {}
    file = memory_file.read_bytes() if memory_file and memory_file.exists() else b""
    for mapping in read_mappings(dump, pid):
        if mapping.file == "/":
            for at in range(mapping.start, mapping.end, PAGE_SIZE):
                seen[at // PAGE_SIZE] = f"file, {mapping.file_offset + at - mapping.start}".encode()
        if mapping.file == PATH and not mapping.status & VmaStatus.GUARD:
            content = file[mapping.file_offset :][: mapping.end - mapping.start]
            assert len(content) == mapping.end - mapping.start
            for at in range(0, len(content), PAGE_SIZE):
                seen[(mapping.start + at) // PAGE_SIZE] = content[at : at + PAGE_SIZE]
    pagemap = read_pagemap(dump, pid)
    content = pagemap.pages_file.read_bytes()
    for run in pagemap.runs:
        for index in range(run.pages):
            at = run.offset + index * PAGE_SIZE
            seen[run.start // PAGE_SIZE + index] = content[at : at + PAGE_SIZE]
    return {number: content for number, content in seen.items() if content != bytes(PAGE_SIZE)}


def move(dump: Path, **options: object) -> MappedMemory:
    """Move the memory, and check all invariants."""
    processes = read_processes(dump)
    before = {process.pid: look_at(dump, process.pid) for process in processes}
    layouts = {process.pid: read_mappings(dump, process.pid) for process in processes}
    memory_file = dump.parent / "memory.bin"
    mapped = map_to_file(dump, memory_file, path_in_image=PATH, **options)
    assert list(dump.parent.rglob("*.new")) == []
    assert (memory_file.stat().st_size if memory_file.exists() else 0) == mapped.size_bytes
    for process, result in zip(processes, mapped.processes, strict=True):
        assert look_at(dump, process.pid, memory_file) == before[process.pid]
        layout = read_mappings(dump, process.pid)
        assert cover(layout) == cover(layouts[process.pid])
        assert len(layout) == result.mappings
        assert sum(mapping.file == PATH for mapping in layout) == result.pieces
        counted = result.moved_bytes + result.shared_bytes + result.zero_bytes + sum(result.left_bytes.values())
        assert counted == process.memory_bytes
        assert sum(result.left_bytes.values()) == read_pagemap(dump, process.pid).size_bytes
    check_inheritance(dump, processes)
    return mapped


def cover(layout: Sequence[Mapping]) -> list[tuple[int, int, int]]:
    """Return the ranges of a layout, with adjacent pieces joined."""
    joined: list[list[int]] = []
    for mapping in layout:
        if joined and joined[-1][1] == mapping.start and joined[-1][2] == mapping.prot:
            joined[-1][1] = mapping.end
        else:
            joined.append([mapping.start, mapping.end, mapping.prot])
    return [tuple(each) for each in joined]


def check_inheritance(dump: Path, processes: Sequence[Process]) -> None:
    """Check that CRIU would not take a child's mapping as inherited from its parent by mistake."""
    for process in processes:
        if process.ppid:
            parents = {(m.start, m.end): m for m in read_mappings(dump, process.ppid) if m.file == PATH}
            for mapping in read_mappings(dump, process.pid):
                if mapping.file == PATH and (mapping.start, mapping.end) in parents:
                    assert parents[mapping.start, mapping.end].file_offset == mapping.file_offset


def test_a_run_becomes_a_mapping_of_the_file(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    resident = {number: number for number in [*range(110, 130), 140, *range(150, 166)]}
    add_process(dump, 1, [vma(100, 200, flags=ANONYMOUS | 0x4000, madv=1 << 16)], resident)
    mapped = move(dump)
    assert mapped.size_bytes == 36 * PAGE_SIZE
    assert mapped.processes[0].left_bytes == {"short run": PAGE_SIZE}
    layout = read_mappings(dump, 1)
    assert [(m.start // PAGE_SIZE, m.end // PAGE_SIZE, m.file) for m in layout] == [
        (100, 110, ""),
        (110, 130, PATH),
        (130, 150, ""),
        (150, 166, PATH),
        (166, 200, ""),
    ]
    assert {m.status for m in layout if m.file} == {VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE}
    assert {m.flags for m in layout if m.file} == {0x4002}
    assert {m.advice for m in layout} == {1 << 16}
    file = read_files(dump)[8].reg
    assert (file.id, file.name, file.mnt_id) == (8, b"/memory.bin", 42)
    found = (tmp_path / "memory.bin").stat()
    assert (file.size, file.mode) == (found.st_size, found.st_mode) == (mapped.size_bytes, stat.S_IFREG | 0o400)


def test_zeros_are_not_stored(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    content = dict.fromkeys(range(200), 1)
    content |= dict.fromkeys([*range(40, 100), 110, 150, 151, 152, 153], 0)
    add_process(dump, 1, [vma(0, 300)], content)
    mapped = move(dump)
    # The long stretch is nowhere; the short ones are in the file, so as not to cut the mapping.
    assert mapped.size_bytes == 140 * PAGE_SIZE
    assert mapped.processes[0].pieces == 2
    assert mapped.processes[0].zero_bytes == 65 * PAGE_SIZE
    assert sum_pages_bytes(dump) == 0


def test_memory_of_zeros_alone_needs_no_file(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, [vma(0, 100)], dict.fromkeys(range(100), 0))
    mapped = move(dump)
    assert mapped.size_bytes == 0
    assert not (tmp_path / "memory.bin").exists()
    assert sum_pages_bytes(dump) == 0
    assert read_files(dump).keys() == {7}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": ANONYMOUS | 0x100}, "stack"),
        ({"status": PRIVATE_ANONYMOUS | VmaStatus.VDSO, "prot": 5}, "not private memory"),
        ({"status": VmaStatus.REGULAR | VmaStatus.FILE_SHARED, "flags": 1, "shmid": 7}, "not private memory"),
        ({"flags": 0x28}, "not private memory"),  # MAP_DROPPABLE
        ({"prot": 0}, "not readable"),
        ({"flags": ANONYMOUS | 0x2000}, "locked or huge pages"),
        ({"flags": ANONYMOUS | 0x40000}, "locked or huge pages"),
        ({"madv": 1 << 18}, "wiped on fork"),
    ],
)
def test_other_mappings_are_left_alone(tmp_path: Path, fields: dict[str, int], reason: str) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    content = {number: number for number in [*range(100, 130), *range(210, 230)]}
    add_process(dump, 1, [vma(90, 140, **fields), vma(200, 240)], content)
    mapped = move(dump)
    assert mapped.processes[0].left_bytes == {reason: 30 * PAGE_SIZE}
    assert mapped.processes[0].moved_bytes == 20 * PAGE_SIZE


@pytest.mark.parametrize("prot", [1, 3, 5, 7])
def test_protection_stays(tmp_path: Path, prot: int) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, [vma(100, 130, prot=prot)], {number: number for number in range(100, 130)})
    assert move(dump).processes[0].moved_bytes == 30 * PAGE_SIZE
    assert [(m.file, m.prot) for m in read_mappings(dump, 1)] == [(PATH, prot)]


def test_the_heap_that_brk_made(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    heap = vma(100, 140, status=PRIVATE_ANONYMOUS | VmaStatus.HEAP)
    add_process(dump, 1, [heap], {number: number for number in range(100, 130)})
    assert move(dump).processes[0].moved_bytes == 30 * PAGE_SIZE
    assert [m.status for m in read_mappings(dump, 1)] == [VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE, heap.status]


def test_a_large_block_of_malloc_is_in_two_mappings(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, [vma(100, 200)], {number: number for number in range(100, 200)})
    with (dump / "pages-1.img").open("r+b") as pages:
        pages.seek(20 * PAGE_SIZE)
        pages.write(struct.pack("<2Q", 0, 60 * PAGE_SIZE | 2))  # as glibc has it at the start of the block
    move(dump)
    first, second = read_mappings(dump, 1)
    assert (first.end // PAGE_SIZE, second.start // PAGE_SIZE) == (121, 121)
    assert first.file_offset + first.end - first.start != second.file_offset


MAPPED_FILE = {"status": VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE, "flags": 2, "shmid": 7, "fd": 5}


def test_what_was_written_to_a_mapping_of_a_file_is_moved(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    # Zeros were written too, and between 130 and 131 is a page of the file.
    written = {number: number % 7 for number in [*range(110, 130), *range(131, 150)]}
    add_process(dump, 1, [vma(100, 200, pgoff=3 * PAGE_SIZE, **MAPPED_FILE)], written)
    mapped = move(dump)
    assert mapped.processes[0].moved_bytes == 39 * PAGE_SIZE
    assert mapped.processes[0].zero_bytes == 0
    layout = read_mappings(dump, 1)
    pieces = [(m.start // PAGE_SIZE, m.end // PAGE_SIZE, m.file) for m in layout]
    assert pieces == [(100, 110, "/"), (110, 130, PATH), (130, 131, "/"), (131, 150, PATH), (150, 200, "/")]
    left = [(m.start // PAGE_SIZE, m.file_offset // PAGE_SIZE) for m in layout if m.file == "/"]
    assert left == [(100, 3), (130, 33), (150, 53)]
    assert {m.status for m in layout} == {VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE}


def test_the_policy_sees_the_process_and_its_layout(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, [vma(100, 130), vma(200, 230)], {n: n for n in [*range(100, 130), *range(200, 230)]})

    def choose(process: Process, mapping: Mapping, layout: Sequence[Mapping]) -> str:
        assert process.comm == "made"
        assert mapping in layout
        return "not the first" if mapping is not layout[0] else ""

    mapped = move(dump, choose=choose)
    assert mapped.processes[0].left_bytes == {"not the first": 30 * PAGE_SIZE}
    assert [m.file for m in read_mappings(dump, 1)] == [PATH, ""]


def test_neighbouring_mappings_and_guards_are_not_joined(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    guard = vma(151, 152, status=VmaStatus.GUARD)
    content = {number: number for number in range(100, 200) if not 150 <= number < 153}
    add_process(dump, 1, [vma(100, 120), vma(120, 200, madv=1 << 14), guard], content)
    assert move(dump).processes[0].pieces == 3
    pieces = [(m.start // PAGE_SIZE, m.end // PAGE_SIZE) for m in read_mappings(dump, 1) if m.file == PATH]
    assert pieces == [(100, 120), (120, 150), (153, 200)]


def test_what_parent_and_child_have_in_common_is_stored_once(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0, 2: 1, 3: 2})
    content = {number: number for number in range(100, 300)}
    for pid in (1, 2, 3):
        add_process(dump, pid, [vma(100, 300)], content if pid == 1 else content | {150: 9})
    mapped = move(dump)
    root, child, grandchild = mapped.processes
    assert (root.moved_bytes, root.shared_bytes) == (200 * PAGE_SIZE, 0)
    assert (child.moved_bytes, child.shared_bytes) == (16 * PAGE_SIZE, 184 * PAGE_SIZE)
    assert (grandchild.moved_bytes, grandchild.shared_bytes) == (0, 200 * PAGE_SIZE)
    assert mapped.size_bytes == 216 * PAGE_SIZE


def test_a_child_with_other_content_at_the_same_addresses(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0, 2: 1})
    add_process(dump, 1, [vma(100, 150)], dict.fromkeys(range(100, 150), 1))
    add_process(dump, 2, [vma(100, 150)], dict.fromkeys(range(100, 150), 2))
    move(dump)  # checks inheritance
    first, second = (m for m in read_mappings(dump, 2) if m.file == PATH)
    assert first.end == second.start
    assert first.file_offset + first.end - first.start != second.file_offset


@pytest.mark.parametrize(("limit", "pieces"), [(200, 10), (26, 10), (24, 1)])
def test_the_number_of_mappings_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, pieces: int
) -> None:
    monkeypatch.setattr(memory, "MAX_MAPPINGS", limit)
    dump = make_dump(tmp_path / "dump", {1: 0})
    content = {number: number for number in range(1040, 1300) if number % 26 < 20}
    add_process(dump, 1, [vma(900, 1500), *(vma(2000 + n, 2001 + n) for n in range(5))], content)
    mapped = move(dump)
    assert mapped.processes[0].pieces == pieces


def test_the_longest_runs_are_taken_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_MAPPINGS", 5)
    dump = make_dump(tmp_path / "dump", {1: 0})
    runs = [range(1000, 1020), range(1100, 1150), range(1200, 1216), range(1300, 1330)]
    add_process(dump, 1, [vma(900, 1500)], {number: number for run in runs for number in run})
    move(dump)
    pieces = [(m.start // PAGE_SIZE, m.end // PAGE_SIZE) for m in read_mappings(dump, 1) if m.file == PATH]
    assert pieces == [(1100, 1150), (1300, 1330)]


def test_the_content_can_be_read_after_the_edit(tmp_path: Path) -> None:
    for name in ("one", "other"):
        dump = make_dump(tmp_path / name, {1: 0, 2: 1})
        add_process(dump, 1, [vma(100, 200)], {number: number for number in range(100, 150)})
        add_process(dump, 2, [vma(100, 200)], {number: 7 * number for number in range(100, 150)})
    mapped = map_to_file(tmp_path / "one", tmp_path / "memory.bin", path_in_image=PATH)
    later: list[MemoryContent] = []
    assert map_memory(tmp_path / "other", later.append, path_in_image=PATH) == mapped
    (content,) = later
    read = b"".join(map(bytes, content))
    content.close()
    assert read == (tmp_path / "memory.bin").read_bytes()
    assert len(read) == content.size_bytes == mapped.size_bytes


def test_an_incremental_dump_is_refused(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, [vma(100, 130)], {number: number for number in range(100, 130)}, flags=1)
    (dump / "pages-1.img").write_bytes(b"")
    with pytest.raises(ArchiveError, match="process 1 has pages in an earlier dump"):
        map_to_file(dump, tmp_path / "memory.bin", path_in_image=PATH)


@pytest.mark.parametrize("vmas", [[vma(200, 300), vma(100, 150)], [vma(100, 150), vma(149, 200)], [vma(150, 150)]])
def test_mappings_out_of_order_are_refused(tmp_path: Path, vmas: list[protos.Vma]) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0})
    add_process(dump, 1, vmas, {number: number for number in range(100, 130)})
    with pytest.raises(ArchiveError, match=r"mm-1\.img: a mapping at 0x\w+, out of order, at offset 8"):
        map_to_file(dump, tmp_path / "memory.bin", path_in_image=PATH)


def test_a_dump_that_is_not_understood_is_not_touched(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", {1: 0, 2: 1})
    for pid in (1, 2):
        add_process(dump, pid, [vma(100, 130)], {number: number for number in range(100, 130)})
    with (dump / "mm-2.img").open("ab") as file:
        file.write(b"\xff\xff")
    before = {path: path.read_bytes() for path in dump.iterdir()}
    with pytest.raises(ArchiveError, match=r"mm-2\.img"):
        map_to_file(dump, tmp_path / "memory.bin", path_in_image=PATH)
    assert {path: path.read_bytes() for path in dump.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["dump"]


def test_a_zombie_is_passed_over(sample: Path, tmp_path: Path) -> None:
    for name in ("mm-18.img", "pagemap-18.img"):
        (sample / name).unlink()
    mapped = map_to_file(sample, tmp_path / "memory.bin", path_in_image=PATH)
    assert [process.pid for process in mapped.processes] == [16, 17]


# Content by runs: how many pages, and what: None for not resident, 0 for zeros.
CONTENT = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=8)


def lay_out(content: list[tuple[int, int | None]]) -> dict[int, int]:
    pages = {}
    at = 100
    for count, kind in content:
        pages |= {number: kind and kind * 1000 + number for number in range(at, at + count)}
        at += count
    return {number: kind for number, kind in pages.items() if kind is not None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    content=CONTENT,
    cuts=st.lists(st.integers(101, 250), max_size=3, unique=True),
    changes=st.lists(CONTENT, min_size=2, max_size=2),
    limit=st.sampled_from([4, 20, 32768]),
    of_file=st.booleans(),
)
def test_any_layout_keeps_what_the_processes_see(
    tmp_path_factory: pytest.TempPathFactory,
    content: list[tuple[int, int | None]],
    cuts: list[int],
    changes: list[list[tuple[int, int | None]]],
    limit: int,
    of_file: bool,
) -> None:
    dump = make_dump(tmp_path_factory.mktemp("any") / "dump", {1: 0, 2: 1, 3: 2})
    pages = lay_out(content)
    bounds = [100, *sorted(cuts), 600]
    kinds = [{}, {**MAPPED_FILE, "pgoff": 9 * PAGE_SIZE}] if of_file else [{}, {}]
    vmas = [vma(a, b, madv=1 << (14 + i % 2), **kinds[i % 2]) for i, (a, b) in enumerate(pairwise(bounds))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "MAX_MAPPINGS", limit)
        for pid in (1, 2, 3):
            add_process(dump, pid, vmas, pages)
            if pid < 3:
                pages = pages | {n: kind + 7 for n, kind in lay_out(changes[pid - 1]).items() if n in pages}
        mapped = move(dump)
    for process in mapped.processes:
        assert process.mappings <= max(limit, len(vmas))
    shutil.rmtree(dump.parent)


# ---- real processes


def read_resident(pagemap: Pagemap, start: int, end: int) -> bytearray:
    memory_bytes = bytearray(end - start)
    with pagemap.pages_file.open("rb") as pages:
        for run in pagemap.runs:
            first, last = max(run.start, start), min(run.end, end)
            if first < last:
                pages.seek(run.offset + first - run.start)
                memory_bytes[first - start : last - start] = pages.read(last - first)
    return memory_bytes


def count_wrong_pages(machine, original: Path, pid: int) -> tuple[int, int]:
    """Compare all private memory of a stopped process with its dump.

    Only pages in the dump count for a mapping of a file.

    Returns:
        The number of compared pages, and the number of different ones.
    """
    pagemap = read_pagemap(original, pid)
    compared = wrong = 0
    with (machine.proc(pid) / "mem").open("rb", buffering=0) as real:
        for begin, end in list_comparable(read_mappings(original, pid), pagemap):
            for at in range(begin, end, 1 << 20):
                size = min(end - at, 1 << 20)
                real.seek(at)
                found, expected = real.read(size), read_resident(pagemap, at, at + size)
                if found != expected:
                    cut = range(0, size, PAGE_SIZE)
                    wrong += sum(found[p : p + PAGE_SIZE] != expected[p : p + PAGE_SIZE] for p in cut)
                compared += size // PAGE_SIZE
    return compared, wrong


def list_comparable(layout: Sequence[Mapping], pagemap: Pagemap) -> Iterator[tuple[int, int]]:
    """List the addresses whose content is known from the dump."""
    kernel = VmaStatus.VVAR | VmaStatus.VDSO | VmaStatus.VSYSCALL | VmaStatus.GUARD
    guards = sorted(mapping.start for mapping in layout if mapping.status & VmaStatus.GUARD)
    for mapping in layout:
        if mapping.status & kernel or not mapping.prot & 1:
            continue
        if mapping.status & VmaStatus.ANON_PRIVATE:
            bounds = [mapping.start, *(g for g in guards if mapping.start <= g < mapping.end), mapping.end]
            for begin, end in pairwise(bounds):
                yield begin + PAGE_SIZE if begin in guards else begin, end
        elif mapping.status & VmaStatus.FILE_PRIVATE:
            for run in pagemap.runs:
                if max(run.start, mapping.start) < min(run.end, mapping.end):
                    yield max(run.start, mapping.start), min(run.end, mapping.end)


def read_smaps(machine, pid: int) -> dict[str, int]:
    """Read /proc/PID/smaps_rollup, in bytes."""
    lines = (machine.proc(pid) / "smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}


# The kernel writes to restartable sequences whenever a thread runs, also while it is being restored.
NO_RSEQ = ("env", "GLIBC_TUNABLES=glibc.pthread.rseq=0")


def restore_mapped(machine, dump: Path) -> MappedMemory:
    """Move the memory of a dump, restore it, and check every page of every process before it runs again."""
    original = machine.scratch / f"{dump.name}-original"
    shutil.copytree(dump, original)
    name = f"{dump.name}.bin"
    mapped = map_to_file(dump, machine.scratch / name, path_in_image=f"/scratch/{name}")
    machine.restore(dump.name, "--leave-stopped")
    for process in mapped.processes:
        compared, wrong = count_wrong_pages(machine, original, process.pid)
        assert compared > 0
        assert wrong == 0, f"{wrong} of {compared} pages of process {process.pid}"
    return mapped


def send(machine, mapped: MappedMemory, *signals: int) -> None:
    for number in signals:
        for process in mapped.processes:
            machine.kill(process.pid, with_signal=number)


@pytest.mark.node
@pytest.mark.parametrize("children", [0, 2])
def test_all_kinds_of_memory(machine, compile_program, children: int) -> None:
    compile_program("memory", machine.scratch)
    pid = machine.start("memory", *NO_RSEQ, "/scratch/memory", "128", str(children))
    dump = machine.dump(pid, "first")
    resident = sum_pages_bytes(dump)
    mapped = restore_mapped(machine, dump)
    processes = 1 + 2 * children
    assert len(mapped.processes) == processes
    assert resident > 100 << 20
    assert sum_pages_bytes(dump) < resident // 20
    assert read_smaps(machine, pid)["Anonymous"] < 4 << 20
    root = mapped.processes[0]
    assert root.left_bytes["wiped on fork"] == 64 * PAGE_SIZE
    assert root.moved_bytes > 128 << 20
    # Children share what they have not changed.
    assert mapped.size_bytes < root.moved_bytes + (8 << 20) + children * (40 << 20)

    send(machine, mapped, signal.SIGCONT, signal.SIGUSR1)
    said = machine.wait_for("memory", "written and checked", times=processes)
    assert "WRONG" not in said

    # Once more: CRIU knows now that all processes map one file.
    machine.dump(pid, "second")
    machine.restore("second")
    send(machine, mapped, signal.SIGUSR1)
    said = machine.wait_for("memory", "written and checked", times=2 * processes)
    assert "WRONG" not in said


@pytest.fixture
def java(machine, make_once: MakeOnce) -> str:
    """Return a JDK of this machine, mounted in the test machine."""
    compiler = shutil.which("javac")
    if compiler is None:
        pytest.skip("needs a JDK")
    home = Path(compiler).resolve().parent.parent
    machine.bind(home)
    for link in (home / "lib/security").iterdir():  # Debian keeps a JDK's settings in /etc
        directory = link.resolve().parent
        if directory.is_dir() and not (machine.inside(directory)).exists():
            machine.bind(directory)
    source = Path(__file__).parents[1] / "programs/Heap.java"
    compile_to = [compiler, source, "-d"]
    classes = make_once("heap", lambda path: subprocess.run([*compile_to, path], check=True, timeout=120))
    shutil.copytree(classes, machine.scratch, dirs_exist_ok=True)
    return str(home / "bin/java")


@pytest.mark.node
@pytest.mark.parametrize("collector", ["Serial", "G1", "Parallel"])
def test_a_jvm_collects_garbage_after_a_restore(machine, java: str, collector: str) -> None:
    options = [f"-XX:+Use{collector}GC", "-Xmx512m", "-XX:-UsePerfData", "-cp", "/scratch"]
    pid = machine.start("heap", *NO_RSEQ, java, *options, "Heap", "100", "/scratch/go")
    mapped = restore_mapped(machine, machine.dump(pid, "dump"))
    assert mapped.processes[0].moved_bytes > 100 << 20
    assert read_smaps(machine, pid)["Anonymous"] < mapped.processes[0].moved_bytes // 5
    (machine.scratch / "go").touch()
    send(machine, mapped, signal.SIGCONT)
    said = machine.wait_for("heap", "after churn")
    sums = {line.split()[-1] for line in said.splitlines()}
    assert len(sums) == 1, said
    assert len(said.splitlines()) == 4, said


PYTHON = """
import gc, hashlib, os, signal
def digest():
    return hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()
def check():
    before = digest()
    for _ in range(3):
        waste = [bytes(1000) for _ in range(50_000)]
        assert not any(any(each) for each in waste[::5000])
        del waste
        gc.collect()
    print("same" if before == digest() == known else "WRONG", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
data = {number: {"text": str(number) * 5, "list": [number] * 5} for number in range(100_000)}
for _ in range(2):
    if os.fork() == 0:
        break
known = digest()
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGUSR1])
    check()
"""


@pytest.mark.node
def test_python_with_workers(machine) -> None:
    machine.bind(Path(sys.base_prefix))
    program = machine.scratch / "program.py"
    program.write_text(PYTHON)
    python = Path(sys.base_prefix) / f"bin/python3.{sys.version_info.minor}"
    pid = machine.start("python", *NO_RSEQ, python, "/scratch/program.py")
    machine.wait_for("python", "ready", times=3)
    mapped = restore_mapped(machine, machine.dump(pid, "dump"))
    assert len(mapped.processes) == 3
    assert all(process.moved_bytes + process.shared_bytes > 30 << 20 for process in mapped.processes)
    send(machine, mapped, signal.SIGCONT, signal.SIGUSR1)
    assert "WRONG" not in machine.wait_for("python", "same", times=3)
