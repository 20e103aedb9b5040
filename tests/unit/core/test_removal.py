"""Directory trees are removed, whatever is in them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.nested import nest

from warmstart.core.removal import remove_directory


def test_directories_deeper_than_recursion_and_descriptors_go(tmp_path):
    (tmp_path / "top").mkdir()
    nest(tmp_path / "top", sys.getrecursionlimit() + 1500)
    assert remove_directory(tmp_path / "top")
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "outside")
    assert remove_directory(tmp_path / "top")
    assert (tmp_path / "outside" / "file").exists()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    assert not remove_directory(tmp_path / "link")
    assert (tmp_path / "outside" / "file").exists()


MOUNTED = """
import errno, subprocess, sys
from pathlib import Path
from warmstart.core import removal
kind, top, outside = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
if kind != "bind":
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", outside], check=True)
if kind == "tmpfs without openat2":
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    removal.open_on_mount = refuse
(outside / "file").touch()
subprocess.run(["mount", "--bind", outside, top / "a" / "mounted"], check=True)
print(removal.remove_directory(top), (outside / "file").exists(), sorted(path.name for path in top.rglob("*")))
"""


@pytest.mark.linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("kind", ["tmpfs", "tmpfs without openat2", "bind"])
def test_what_is_mounted_below_stays(tmp_path, kind):
    """In a mount namespace, so that the mounts end with the test."""
    for name in ("top/a/mounted", "top/b", "outside"):
        (tmp_path / name).mkdir(parents=True)
    command = ["unshare", "--mount", sys.executable, "-c", MOUNTED, kind, tmp_path / "top", tmp_path / "outside"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "False True ['a', 'file', 'mounted']\n"
    assert remove_directory(tmp_path / "top")


def test_a_directory_that_is_not_there_is_gone(tmp_path):
    assert remove_directory(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_the_rest_goes_where_a_part_cannot(tmp_path):
    kept = tmp_path / "top" / "a" / "kept"
    kept.mkdir(parents=True)
    (tmp_path / "top" / "b" / "c").mkdir(parents=True)
    kept.parent.chmod(0o555)
    assert not remove_directory(tmp_path / "top")
    kept.parent.chmod(0o755)
    assert [path.name for path in (tmp_path / "top").rglob("*")] == ["a", "kept"]
