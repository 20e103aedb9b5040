from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from warmstart.core.errors import CheckpointError
from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, write_image
from warmstart.dump.edit.environment import add_environment, link_environment

REGULAR = 1


def write_dump(directory: Path, tables: Mapping[int, Sequence[int]], limit: int = 1024) -> Path:
    """Write a dump with a process for each descriptor table. All descriptors are of one file, with the id 7."""
    file = protos.File(type=REGULAR, id=7)
    file.reg.id, file.reg.flags, file.reg.pos, file.reg.name = 7, 0, 0, b"/dev/null"
    owner = file.reg.fown
    owner.uid = owner.euid = owner.signum = owner.pid_type = owner.pid = 0
    write_image(directory / "files.img", [Entry(file.SerializeToString())])
    processes = []
    for number, descriptors in tables.items():
        messages = [protos.Descriptor(id=7, flags=0, type=REGULAR, fd=fd) for fd in descriptors]
        entries = [Entry(message.SerializeToString()) for message in messages]
        write_image(directory / f"fdinfo-{number}.img", entries)
        core = protos.Core()
        core.tc.comm = b"service"
        for _ in range(16):
            core.tc.limits.limits.add(cur=limit, max=limit)
        write_image(directory / f"core-{100 + number}.img", [Entry(core.SerializeToString())])
        processes.append(protos.Process(pid=100 + number, ppid=0, threads=[100 + number]))
    write_image(directory / "pstree.img", [Entry(process.SerializeToString()) for process in processes])
    return directory


def list_descriptors(directory: Path, number: int) -> list[tuple[int, int]]:
    path = directory / f"fdinfo-{number}.img"
    found = [decode(path, entry, protos.Descriptor) for entry in read_image(path)]
    return [(each.fd, each.id) for each in found]


def test_each_process_has_one_more_descriptor_of_the_same_file(tmp_path):
    write_dump(tmp_path, {1: [0, 1, 2], 2: [0, 100], 3: []})
    assert add_environment(tmp_path) == 101
    assert list_descriptors(tmp_path, 1) == [(0, 7), (1, 7), (2, 7), (101, 8)]
    assert list_descriptors(tmp_path, 2) == [(0, 7), (100, 7), (101, 8)]
    assert list_descriptors(tmp_path, 3) == [(101, 8)]
    path = tmp_path / "files.img"
    files = [decode(path, entry, protos.File) for entry in read_image(path)]
    assert [(file.id, file.reg.name) for file in files] == [(7, b"/dev/null"), (8, b"/.warmstart/environment")]


def test_the_lowest_number_that_nobody_uses(tmp_path):
    write_dump(tmp_path, {1: [100, 101, 103], 2: [102]})
    assert add_environment(tmp_path) == 104


def test_the_limit_of_open_files_holds(tmp_path):
    write_dump(tmp_path, {1: [0]}, limit=101)
    assert add_environment(tmp_path) == 100
    write_dump(tmp_path, {1: [0, 100]}, limit=101)
    with pytest.raises(CheckpointError, match="number 101 is too high"):
        add_environment(tmp_path)


def test_the_link_replaces_what_is_there_and_follows_nothing(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "env").symlink_to("victim")
    link_environment(tmp_path, 123)
    assert (tmp_path / "env").readlink() == Path("/proc/self/fd/123")
    assert (tmp_path / "victim").read_text() == "mine"
