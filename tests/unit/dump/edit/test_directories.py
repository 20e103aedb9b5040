"""Open directories of a dump restore with any mode."""

from __future__ import annotations

from pathlib import Path

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, write_image
from warmstart.dump.edit.directories import clear_directory_modes

OWNER = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}


def make_entry(number: int, name: bytes, mode: int) -> Entry:
    reg = {"id": number, "flags": 0, "pos": 0, "fown": OWNER, "name": name, "mode": mode}
    return Entry(protos.File(type=1, id=number, reg=reg).SerializeToString())


def read_files(path: Path) -> list:
    return [decode(path, entry, protos.File) for entry in read_image(path)]


def test_modes_of_directories_are_forgotten_and_nothing_else(tmp_path):
    path = tmp_path / "files.img"
    link = Entry(protos.File(type=2, id=3).SerializeToString())
    write_image(path, [make_entry(1, b"/", 0o40555), make_entry(2, b"/program", 0o100755), link])
    before = read_files(path)
    clear_directory_modes(tmp_path)
    before[0].reg.ClearField("mode")
    assert read_files(path) == before
