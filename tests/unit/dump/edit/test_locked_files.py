"""Files that their owner may not open again as they are open are known, and restore with another mode."""

from __future__ import annotations

import os
import stat

import pytest

from warmstart.dump.criu import protos
from warmstart.dump.criu.entries import Entry, decode, read_image, write_image
from warmstart.dump.edit.locked_files import unlock_files

OWNER = {"uid": 0, "euid": 0, "signum": 0, "pid_type": 0, "pid": 0}


@pytest.mark.parametrize(
    ("flags", "mode", "locked"),
    [
        (os.O_RDWR, 0o100400, True),
        (os.O_WRONLY | os.O_APPEND, 0o100444, True),
        (os.O_RDONLY, 0o100222, True),
        (os.O_RDWR, 0o100600, False),
        (os.O_RDONLY, 0o100400, False),
        (os.O_RDONLY, stat.S_IFDIR | 0o300, False),
        (os.O_PATH, 0o100000, False),
    ],
)
def test_only_modes_that_would_refuse_the_owner_are_forgotten(tmp_path, flags, mode, locked):
    reg = {"id": 1, "flags": flags, "pos": 0, "fown": OWNER, "name": b"/data/lock", "mode": mode}
    write_image(tmp_path / "files.img", [Entry(protos.File(type=1, id=1, reg=reg).SerializeToString())] * 2)
    assert unlock_files(tmp_path) == (("/data/lock",) if locked else ())
    files = [decode(tmp_path, entry, protos.File) for entry in read_image(tmp_path / "files.img")]
    assert [file.reg.HasField("mode") for file in files] == [not locked] * 2
