"""Read processes, mappings, pages and sockets of a dump."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import protos
from warmstart.dump.criu.contents import (
    PageFlag,
    PageRun,
    VmaStatus,
    read_cores,
    read_inventory,
    read_mappings,
    read_memory,
    read_pagemap,
    read_processes,
    sum_pages_bytes,
)
from warmstart.dump.criu.entries import Entry, decode, read_image, read_only_entry, write_image


def write_pagemap(directory: Path, *runs: dict[str, int | bool], pages: int) -> None:
    head = Entry(protos.PagemapHead(pages_id=1).SerializeToString())
    entries = (Entry(protos.Pagemap(**{"compat_nr_pages": 0, **run}).SerializeToString()) for run in runs)
    write_image(directory / "pagemap-1.img", [head, *entries])
    (directory / "pages-1.img").write_bytes(b"".join(bytes([65 + page]) * 4096 for page in range(pages)))


def test_inventory(sample: Path) -> None:
    inventory = read_inventory(sample)
    assert inventory.version == 2
    assert len(inventory.run_id) == 36
    assert not inventory.tcp_close
    assert inventory.namespaces.keys() == {"pid", "net", "ipc", "uts", "mnt", "user", "cgroup", "time"}


def test_another_version_is_refused(sample: Path) -> None:
    path = sample / "inventory.img"
    entry = read_only_entry(path)
    message = decode(path, entry, protos.Inventory)
    message.img_version = 3
    write_image(path, [entry.replaced_by(message)])
    with pytest.raises(ArchiveError, match=r"inventory\.img: image files of version 3 where 2 is known"):
        read_inventory(sample)


def test_processes(sample: Path) -> None:
    processes = read_processes(sample)
    assert [(process.pid, process.ppid) for process in processes] == [(16, 0), (17, 16), (18, 17)]
    for process in processes:
        assert process.comm == "objects"
        assert process.arguments == ("/scratch/objects", "sysv")
        assert process.threads == 1
    assert sum(process.memory_bytes for process in processes) < sum_pages_bytes(sample)


def test_a_process_whose_arguments_are_not_in_the_dump(sample: Path) -> None:
    path = sample / "mm-16.img"
    entry = read_only_entry(path)
    message = decode(path, entry, protos.Mm)
    message.mm_arg_end = message.mm_arg_start + 4096 * 200
    write_image(path, [entry.replaced_by(message)])
    assert read_processes(sample)[0].arguments == ()


def test_a_zombie_has_no_memory(sample: Path) -> None:
    for name in ("mm-18.img", "pagemap-18.img"):
        (sample / name).unlink()
    zombie = read_processes(sample)[2]
    assert (zombie.memory_bytes, zombie.arguments) == (0, ())


def test_a_zombie_has_one_thread_whatever_number_the_dump_lists(sample: Path) -> None:
    path = sample / "pstree.img"
    entries = list(read_image(path))
    message = decode(path, entries[2], protos.Process)
    message.threads[:] = [507410784]
    write_image(path, [*entries[:2], entries[2].replaced_by(message)])
    with pytest.raises(ArchiveError, match=r"core-507410784\.img"):
        read_cores(sample)
    core_path = sample / "core-18.img"
    entry = read_only_entry(core_path)
    core = decode(core_path, entry, protos.Core)
    core.tc.task_state = 2
    write_image(core_path, [entry.replaced_by(core)])
    assert read_cores(sample)[18].keys() == {18}


def test_a_process_that_is_there_twice_is_refused(sample: Path) -> None:
    path = sample / "pstree.img"
    entries = list(read_image(path))
    write_image(path, [*entries, entries[1]])
    with pytest.raises(ArchiveError, match=r"pstree\.img: a second process 17 at offset \d+$"):
        read_processes(sample)


def test_a_process_without_its_core_is_refused(sample: Path) -> None:
    (sample / "core-17.img").unlink()
    with pytest.raises(ArchiveError, match=r"core-17\.img: cannot be read: No such file or directory"):
        read_processes(sample)


def test_a_dump_without_processes_is_refused(sample: Path) -> None:
    write_image(sample / "pstree.img", [])
    with pytest.raises(ArchiveError, match=r"pstree\.img: lists no processes"):
        read_processes(sample)


def test_mappings(sample: Path) -> None:
    mappings = read_mappings(sample, 16)
    assert {mapping.file for mapping in mappings} == {"", "/scratch/objects"}
    program = next(mapping for mapping in mappings if mapping.file)
    assert program.status == VmaStatus.REGULAR | VmaStatus.FILE_PRIVATE
    [heap] = [mapping for mapping in mappings if mapping.status & VmaStatus.HEAP]
    assert heap.end > heap.start
    assert [m.start for m in mappings] == sorted(m.start for m in mappings)


def test_pagemap(tmp_path: Path) -> None:
    write_pagemap(
        tmp_path,
        {"vaddr": 0x10000, "nr_pages": 2, "flags": PageFlag.PRESENT | PageFlag.LAZY},
        {"vaddr": 0x13000, "nr_pages": 1, "flags": PageFlag.PARENT},
        {"vaddr": 0x14000, "compat_nr_pages": 1},
        {"vaddr": 0x15000, "compat_nr_pages": 1, "in_parent": True},
        pages=3,
    )
    pagemap = read_pagemap(tmp_path, 1)
    assert pagemap.size_bytes == 3 * 4096
    assert pagemap.runs == (
        PageRun(0x10000, 2, 6, 0),
        PageRun(0x13000, 1, 1, None),
        PageRun(0x14000, 1, 4, 8192),
        PageRun(0x15000, 1, 5, None),
    )


def test_memory_across_runs(tmp_path: Path) -> None:
    write_pagemap(tmp_path, {"vaddr": 0x10000, "nr_pages": 1}, {"vaddr": 0x11000, "nr_pages": 1}, pages=2)
    assert read_memory(tmp_path, 1, 0x10FFE, 4) == b"AABB"
    assert read_memory(tmp_path, 1, 0x11FFE, 4) is None
    assert read_memory(tmp_path, 1, 0x0FFFE, 4) is None


@pytest.mark.parametrize(
    ("runs", "pages", "problem"),
    [
        ([{"vaddr": 0x10001, "nr_pages": 1}], 1, "out of order at offset"),
        ([{"vaddr": 0x10000, "nr_pages": 0}], 0, "a run of 0 pages"),
        ([{"vaddr": 0x10000, "nr_pages": 2}, {"vaddr": 0x11000, "nr_pages": 1}], 3, "out of order at offset"),
        ([{"vaddr": 0x10000, "nr_pages": 1 << 60}], 1, "out of order at offset"),
        ([{"vaddr": 0x10000, "nr_pages": 2}], 1, r"is 4096 bytes long, but pagemap-1\.img lists 8192"),
        ([{"vaddr": 0x10000, "nr_pages": 1}], 2, r"is 8192 bytes long, but pagemap-1\.img lists 4096"),
    ],
)
def test_a_pagemap_that_is_not_understood_is_refused(
    tmp_path: Path, runs: list[dict[str, int | bool]], pages: int, problem: str
) -> None:
    write_pagemap(tmp_path, *runs, pages=pages)
    with pytest.raises(ArchiveError, match=problem):
        read_pagemap(tmp_path, 1)


def test_a_pagemap_without_its_head_is_refused(sample: Path) -> None:
    write_image(sample / "pagemap-16.img", [])
    with pytest.raises(ArchiveError, match=r"pagemap-16\.img: has no entries"):
        read_pagemap(sample, 16)
    assert list(read_image(sample / "pagemap-16.img")) == []


def test_pages_that_are_elsewhere_are_refused(tmp_path: Path) -> None:
    write_pagemap(tmp_path, {"vaddr": 0x10000, "nr_pages": 1}, pages=1)
    pages = tmp_path / "pages-1.img"
    pages.rename(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match=r"pages-1\.img: cannot be read"):
        read_pagemap(tmp_path, 1)
    pages.symlink_to("elsewhere")
    with pytest.raises(ArchiveError, match=r"pages-1\.img: is not a file"):
        read_pagemap(tmp_path, 1)
