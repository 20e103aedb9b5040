"""Status files are read in one way, whatever a process calls itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import warmstart.dump
from warmstart.dump.proc.status import read_limits, read_status


def test_fields_are_without_white_space(tmp_path):
    (tmp_path / "status").write_bytes(b"Name:\tUid: \xff: 7\nUmask:\t0022\nGroups:\t4 27 \nno field\n")
    assert read_status(tmp_path) == {"Name": "Uid: �: 7", "Umask": "0022", "Groups": "4 27"}


def test_what_has_ended_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_status(tmp_path)


def test_limits_have_names_and_two_values(tmp_path):
    lines = (
        "Limit                     Soft Limit           Hard Limit           Units     ",
        "Max cpu time              unlimited            unlimited            seconds   ",
        "Max open files            1024                 524288               files     ",
        "Max nice priority         0                    0                    ",
    )
    (tmp_path / "limits").write_text("\n".join(lines) + "\n")
    expected = {"cpu time": ("unlimited", "unlimited"), "open files": ("1024", "524288"), "nice priority": ("0", "0")}
    assert read_limits(tmp_path) == expected
    (tmp_path / "limits").write_text("")  # of a process that has ended
    assert read_limits(tmp_path) == {}


def test_there_is_one_reader():
    sources = {path: path.read_text() for path in Path(warmstart.dump.__file__).parent.rglob("*.py")}
    assert [path.name for path, text in sources.items() if re.search(r"[/\"]status\"", text)] == ["status.py"]
