"""Directory trees are removed, whatever is in them."""

from __future__ import annotations

import os
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
