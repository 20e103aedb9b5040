"""The doctor: each thing that is looked at, as a build needs it and as it does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.cli import default_cache
from warmstart.core.errors import HostError
from warmstart.node import doctor
from warmstart.node.doctor import Check, examine_host, require
from warmstart.node.tree import tree_path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WARMSTART_TMPDIR", "/var/tmp")
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 1)
    return tmp_path / "cache"


def find(checks: list[Check], name: str) -> Check:
    return {check.name: check for check in checks}[name]


def put_tree(cache: Path, target: str) -> None:
    """Have another directory for the tree of tools."""
    tree_path(cache).parent.mkdir(parents=True)
    tree_path(cache).symlink_to(target)


def put_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these programs on PATH and no others."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")


def test_who_it_is_run_by(cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find(examine_host(cache), "root") == Check("root", True, "yes")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find(examine_host(cache), "root") == Check("root", False, "no, user 1000", "run it with sudo")


def test_programs_that_are_there(cache, tmp_path, monkeypatch):
    put_programs(tmp_path, monkeypatch, "nsenter", "mmdebstrap")
    checks = examine_host(cache)
    assert find(checks, "nsenter") == Check("nsenter", True, f"{tmp_path}/bin/nsenter")
    assert find(checks, "mmdebstrap").ok


def test_programs_that_are_not(cache, tmp_path, monkeypatch):
    put_programs(tmp_path, monkeypatch)
    checks = examine_host(cache)
    assert find(checks, "nsenter") == Check("nsenter", False, "not found", "apt-get install util-linux")
    assert find(checks, "mmdebstrap") == Check("mmdebstrap", False, "not found", "apt-get install mmdebstrap")


def test_room(cache, monkeypatch):
    room = find(examine_host(cache), "room to work")
    assert room.ok
    assert room.found.endswith(" free in /var/tmp")
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 1 << 60)
    room = find(examine_host(cache), "room to work")
    assert room.ok is False
    assert "WARMSTART_TMPDIR" in room.cure


def test_no_room_at_all(cache, monkeypatch):
    monkeypatch.setenv("WARMSTART_TMPDIR", "/nonexistent")
    room = find(examine_host(cache), "room to work")
    assert (room.ok, room.found) == (False, "/nonexistent: No such file or directory")
    assert "WARMSTART_TMPDIR" in room.cure


def test_the_kernel_is_only_named(cache):
    assert find(examine_host(cache), "kernel") == Check("kernel", None, f"{os.uname().release} {os.uname().machine}")


def test_a_host_that_cannot_limit_processes(cache, monkeypatch):
    assert "process limit" not in {check.name for check in examine_host(cache)}
    monkeypatch.setattr(doctor, "limits_processes", lambda _: False)
    told = find(examine_host(cache), "process limit")
    assert told.ok is None
    assert "fork bomb" in told.found


def test_no_node_is_tried_without_its_tools(cache):
    checks = examine_host(cache)
    assert find(checks, "tools").ok is False
    assert "warmstart node setup" in find(checks, "tools").cure
    assert checks[-1].name == "tools"


def test_no_node_is_tried_where_one_cannot_work(cache, monkeypatch):
    put_tree(cache, "/")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    checks = examine_host(cache)
    assert find(checks, "tools") == Check("tools", True, str(tree_path(cache)))
    assert checks[-1].name == "tools"


@pytest.mark.usefixtures("as_root")
def test_namespaces_that_cannot_be_made(cache):
    # No file system that overlay takes for a layer.
    put_tree(cache, "/proc")
    checks = examine_host(cache)
    assert checks[-1].name == "namespaces"
    assert checks[-1].ok is False
    assert checks[-1].found.startswith("cannot set up the embedded node: mount overlay: Invalid argument")


@pytest.mark.usefixtures("as_root")
def test_a_node_whose_criu_is_missing(cache, tmp_path):
    """The host is the tree here."""
    if os.access("/usr/sbin/criu", os.X_OK):
        pytest.skip("the host has CRIU")
    put_tree(cache, "/")
    checks = examine_host(cache)
    assert [(check.name, check.ok) for check in checks[-3:]] == [
        ("namespaces", True),
        ("overlay mounts", True),
        ("dump and restore", False),
    ]
    assert "criu: not found" in checks[-1].found
    assert checks[-1].cure


@pytest.fixture
def on_overlay(tmp_path, monkeypatch, as_root) -> Iterator[None]:
    """Workspaces on an overlay mount, on which the kernel allows no writable overlay."""
    for name in ("upper", "work", "merged", "lower"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=True)
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path / "merged"))
    yield
    subprocess.run(["umount", tmp_path / "merged"], check=True)


@pytest.mark.usefixtures("on_overlay")
def test_a_place_without_overlay_mounts(cache, monkeypatch, tmp_path):
    put_tree(cache, "/")
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path / "merged"))
    overlay = find(examine_host(cache), "overlay mounts")
    assert overlay.ok is False
    assert "overlay" in overlay.found
    assert "WARMSTART_TMPDIR" in overlay.cure


@pytest.mark.node
@pytest.mark.usefixtures("as_root")
def test_a_host_that_can_build(cache, monkeypatch):
    real = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    if not tree_path(real).is_dir():
        pytest.skip("the tree of tools is not made")
    checks = examine_host(real)
    assert [check for check in checks if check.ok is False] == []
    assert find(checks, "dump and restore").found.startswith("a process was dumped and restored by CRIU ")
    require(checks)


def test_what_is_not_as_it_should_be_is_named():
    require([Check("a", True, ""), Check("b", None, "")])
    with pytest.raises(HostError, match=r"^a build would not work here: c, d$"):
        require([Check("a", True, ""), Check("b", None, ""), Check("c", False, ""), Check("d", False, "")])
