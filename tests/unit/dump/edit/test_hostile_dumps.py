"""Each edit refuses dumps that CRIU would not write, and leaves them unchanged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.memory_file import map_to_file

from warmstart.core.errors import ArchiveError
from warmstart.dump.criu import contents, protos
from warmstart.dump.criu.contents import read_files, read_pagemap, read_sockets
from warmstart.dump.criu.entries import Entry, decode, edit_image, read_image, read_only_entry, write_image
from warmstart.dump.criu.fingerprint import AT_RANDOM, find_identity
from warmstart.dump.edit.cgroups import move_to_cgroup_v2


def edit(path: Path, message_class: type, change) -> None:
    edit_image(path, message_class, lambda message: change(message) or True)


def refused(sample: Path, reason: str) -> None:
    before = {path.name: path.read_bytes() for path in sample.iterdir()}
    with pytest.raises(ArchiveError, match=reason):
        map_to_file(sample, sample.parent / "memory", path_in_image="/memory")
    assert {path.name: path.read_bytes() for path in sample.iterdir()} == before
    assert not (sample.parent / "memory").exists()


def test_two_processes_of_one_file_of_pages(sample: Path) -> None:
    first, second = (sample / f"pagemap-{pid}.img" for pid in (16, 17))
    write_image(second, list(read_image(first)))
    refused(sample, "is of both the processes 16 and 17")


def test_a_file_of_the_largest_id(sample: Path) -> None:
    def renumber(file) -> None:
        if file.id == max(read_files(sample)):
            file.id = (1 << 32) - 1

    edit(sample / "files.img", protos.File, renumber)
    refused(sample, "has a file with the id 4294967295, the largest possible")


def test_a_mapping_of_the_end_of_a_file_without_end(sample: Path) -> None:
    def move(mm) -> None:
        mm.vmas[0].pgoff = (1 << 64) - 4096

    edit(sample / "mm-16.img", protos.Mm, move)
    refused(sample, "a mapping of a file at offset 0xfffffffffffff000")


def test_a_port_that_is_none(sample: Path) -> None:
    path = sample / "files.img"
    isk = {"id": 9, "ino": 1, "family": 2, "type": 1, "proto": 6, "state": 10, "dst_port": 0}
    isk |= {"src_port": 65536, "src_addr": [0], "dst_addr": [0]}
    write_image(path, [*read_image(path), Entry(protos.File(type=4, id=9, isk=isk).SerializeToString())])
    with pytest.raises(ArchiveError, match="a socket with the port 65536"):
        read_sockets(sample)


def test_more_runs_of_pages_than_any_heap_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_RUNS", 100)
    head = Entry(protos.PagemapHead(pages_id=1).SerializeToString())
    runs = [protos.Pagemap(vaddr=at * 8192, compat_nr_pages=1) for at in range(101)]
    write_image(tmp_path / "pagemap-1.img", [head, *(Entry(run.SerializeToString()) for run in runs)])
    (tmp_path / "pages-1.img").write_bytes(bytes(101 * 4096))
    with pytest.raises(ArchiveError, match="more than 100 runs of pages"):
        read_pagemap(tmp_path, 1)


def test_more_mappings_than_any_process_has(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_MAPPINGS", 5)
    refused(sample, r"mm-16.img: \d+ mappings \(at most 5\)")
    with pytest.raises(ArchiveError, match="at most 5"):
        contents.read_mappings(sample, 16)


def test_a_process_without_random_bytes(sample: Path) -> None:
    path = sample / "mm-16.img"
    entry = read_only_entry(path)
    mm = decode(path, entry, protos.Mm)
    kept = [word for pair in zip(mm.mm_saved_auxv[::2], mm.mm_saved_auxv[1::2], strict=False) for word in pair]
    at = kept.index(AT_RANDOM)
    mm.mm_saved_auxv[:] = [*kept[:at], *kept[at + 2 :]]
    write_image(path, [entry.replaced_by(mm)])
    with pytest.raises(ArchiveError, match="does not hold the random bytes"):
        find_identity(sample)


@pytest.mark.parametrize("name", [b"/sys/fs/cgroup/..", b"/sys/fs/cgroup"])
def test_a_hierarchy_that_is_mounted_beside_its_tmpfs(tmp_path: Path, name: bytes) -> None:
    place = {"fstype": 5, "mnt_id": 1, "parent_mnt_id": 0, "root_dev": 9, "mountpoint": b"/sys/fs/cgroup", "root": b"/"}
    hierarchy = {**place, "fstype": 12, "mnt_id": 2, "parent_mnt_id": 1, "mountpoint": name}
    mounts = [protos.Mount(**{**blank(), **mount}) for mount in (place, hierarchy)]
    write_image(tmp_path / "mountpoints-1.img", [Entry(mount.SerializeToString()) for mount in mounts])
    core = protos.Core()
    core.tc.comm, core.tc.cg_set = b"made", 1
    write_image(tmp_path / "core-1.img", [Entry(core.SerializeToString())])
    assert not move_to_cgroup_v2(tmp_path)


def blank() -> dict[str, object]:
    fields = protos.Mount.DESCRIPTOR.fields
    return {field.name: b"" if field.type == field.TYPE_BYTES else 0 for field in fields if field.is_required}


def test_lengths_do_not_count_before_they_were_looked_at(sample: Path) -> None:
    path = sample / "files.img"
    path.write_bytes(path.read_bytes() + struct.pack("<I", 0xFFFFFFF0))
    with pytest.raises(ArchiveError, match="a message of 4294967280 bytes"):
        read_sockets(sample)
