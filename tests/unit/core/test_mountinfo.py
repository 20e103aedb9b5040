"""Lines of /proc/PID/mountinfo are read as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warmstart.core.mountinfo import MountInfo, parse_mountinfo

OVERLAY = r"36 35 98:0 /mnt\0401 /mnt2\134x rw,noatime master:1 propagate_from:2 - overlay a\040b rw,upperdir=/u\040- x"


def test_a_line_with_escapes_and_optional_fields():
    (mount,) = parse_mountinfo(OVERLAY)
    assert mount == MountInfo(36, os.makedev(98, 0), "/mnt 1", r"/mnt2\x", "overlay", "a b", r"rw,upperdir=/u\040- x")


def test_an_empty_text_has_no_mounts():
    assert list(parse_mountinfo("")) == []


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
def test_the_root_of_this_process_is_found():
    mounts = list(parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    assert Path("/").stat().st_dev in {mount.device for mount in mounts if mount.mount_point == "/"}
