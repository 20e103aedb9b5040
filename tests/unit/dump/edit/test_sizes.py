"""Files that an application appends to, and those of a pod, restore with any size."""

from __future__ import annotations

import os
from pathlib import Path

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, write_image
from warmstart.dump.edit.sizes import clear_growing_sizes, clear_sizes_of_pod

OWNER = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}


def make_entry(number: int, flags: int, name: str = "/data/app.log") -> Entry:
    reg = {"id": number, "flags": flags, "pos": 0, "fown": OWNER, "name": name.encode(), "size": 12}
    return Entry(protos.File(type=1, id=number, reg=reg).SerializeToString())


def read_files(path: Path) -> list:
    return [decode(path, entry, protos.File) for entry in read_image(path)]


def test_sizes_of_logs_are_forgotten_and_nothing_else(tmp_path):
    path = tmp_path / "files.img"
    link = Entry(protos.File(type=2, id=3).SerializeToString())
    write_image(path, [make_entry(1, os.O_WRONLY | os.O_APPEND), make_entry(2, os.O_RDWR), link])
    before = read_files(path)
    clear_growing_sizes(tmp_path)
    before[0].reg.ClearField("size")
    assert read_files(path) == before


def test_sizes_of_files_of_the_pod_are_forgotten(tmp_path):
    path = tmp_path / "files.img"
    write_image(path, [make_entry(1, os.O_RDONLY, "/etc/hosts"), make_entry(2, os.O_RDONLY, "/data/etc/hosts")])
    clear_sizes_of_pod(tmp_path)
    assert [file.reg.HasField("size") for file in read_files(path)] == [False, True]
