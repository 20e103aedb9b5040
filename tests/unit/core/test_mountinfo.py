"""Lines of /proc/PID/mountinfo are read as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.mountinfo import MountInfo, parse_mountinfo, read_mountinfo

OVERLAY = r"36 35 98:0 /mnt\0401 /mnt2\134x rw,noatime master:1 propagate_from:2 - overlay a\040b rw,upperdir=/u\040- x"


def test_a_line_with_escapes_and_optional_fields():
    (mount,) = parse_mountinfo(OVERLAY)
    assert mount == MountInfo(36, os.makedev(98, 0), "/mnt 1", r"/mnt2\x", "overlay", "a b", r"rw,upperdir=/u\040- x")


def test_an_empty_text_has_no_mounts():
    assert list(parse_mountinfo("")) == []


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_name_is_one_line(name):
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in name)
    mounts = parse_mountinfo(f"11 10 0:41 / /{escaped} rw - tmpfs tmpfs rw\n{OVERLAY}\n")
    assert [mount.mount_point for mount in mounts] == [f"/{name}", r"/mnt2\x"]


def test_bytes_that_are_not_utf8_and_carriage_returns_are_kept(tmp_path):
    (tmp_path / "mountinfo").write_bytes(b"11 10 0:41 / /a\xff\rb rw - tmpfs tmpfs rw\n")
    (mount,) = parse_mountinfo(read_mountinfo(tmp_path / "mountinfo"))
    assert os.fsencode(mount.mount_point) == b"/a\xff\rb"


@pytest.mark.linux
def test_the_root_of_this_process_is_found():
    mounts = list(parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    assert Path("/").stat().st_dev in {mount.device for mount in mounts if mount.mount_point == "/"}
