"""The doctor: each thing that is looked at, as a build needs it and as it does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from warmstart.cli.context import default_cache
from warmstart.core.errors import HostError
from warmstart.node import doctor
from warmstart.node.doctor import Check, examine_host, examine_host_programs, require
from warmstart.node.packages import Package
from warmstart.node.record import Record, write_record
from warmstart.node.tree import tree_path
from warmstart.node.trust import seal

pytestmark = pytest.mark.linux


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WARMSTART_TMPDIR", "/var/tmp")
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 1)
    return tmp_path / "cache"


def find(checks: list[Check], name: str) -> Check:
    return {check.name: check for check in checks}[name]


def put_tree(cache: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another directory for the tools directory, and believe that it is one."""
    tree_path(cache).parent.mkdir(parents=True)
    tree_path(cache).symlink_to(target)
    monkeypatch.setattr(doctor, "_check_tools", lambda cache, tree: [Check("tools", True, str(tree))])


def put_sealed_tree(cache: Path, made_at: datetime, **programs: str) -> Path:
    """Have a tools directory with a runc in it, as it is made."""
    tree = tree_path(cache)
    (tree / "usr/sbin").mkdir(parents=True)
    (tree / "usr/sbin/runc").write_text("runc")
    (tree / "usr/sbin/runc").chmod(0o755)
    packages = (Package("criu", "4.2.1-1", "0"), Package("crun", "1.28-1", "0"))
    write_record(tree, Record(made_at, "tools", packages, programs))
    seal(tree)
    return tree


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
    assert find(examine_host(cache), "root") == Check("root", False, "no, user 1000", "run the command with sudo")


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
    assert "WARMSTART_TMPDIR" in room.fix


def test_no_room_at_all(cache, monkeypatch):
    monkeypatch.setenv("WARMSTART_TMPDIR", "/nonexistent")
    room = find(examine_host(cache), "room to work")
    assert (room.ok, room.found) == (False, "/nonexistent: No such file or directory")
    assert "WARMSTART_TMPDIR" in room.fix


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
    assert "warmstart node setup" in find(checks, "tools").fix
    assert checks[-1].name == "tools"


def test_no_node_is_tried_where_one_cannot_work(cache, monkeypatch):
    put_tree(cache, "/", monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    checks = examine_host(cache)
    assert find(checks, "tools") == Check("tools", True, str(tree_path(cache)))
    assert checks[-1].name == "tools"


@pytest.mark.usefixtures("as_root")
def test_namespaces_that_cannot_be_made(cache, monkeypatch):
    # No file system that overlay takes for a layer.
    put_tree(cache, "/proc", monkeypatch)
    checks = examine_host(cache)
    assert checks[-1].name == "namespaces"
    assert checks[-1].ok is False
    assert checks[-1].found.startswith("cannot set up the embedded node: mount overlay: Invalid argument")


@pytest.mark.usefixtures("as_root")
def test_a_node_whose_criu_is_missing(cache, tmp_path, monkeypatch):
    """The host is the tree here."""
    if os.access("/usr/sbin/criu", os.X_OK):
        pytest.skip("the host has CRIU")
    put_tree(cache, "/", monkeypatch)
    checks = examine_host(cache)
    assert [(check.name, check.ok) for check in checks[-3:]] == [
        ("namespaces", True),
        ("overlay mounts", True),
        ("dump and restore", False),
    ]
    assert "criu: not found" in checks[-1].found
    assert checks[-1].fix


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
    put_tree(cache, "/", monkeypatch)
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path / "merged"))
    overlay = find(examine_host(cache), "overlay mounts")
    assert overlay.ok is False
    assert "overlay" in overlay.found
    assert "WARMSTART_TMPDIR" in overlay.fix


@pytest.mark.node
@pytest.mark.usefixtures("as_root")
def test_a_host_that_can_build(cache, monkeypatch):
    real = Path(os.environ.get("WARMSTART_CACHE") or default_cache())
    if not tree_path(real).is_dir():
        pytest.skip("the tools directory is not made")
    checks = examine_host(real)
    assert [check for check in checks if check.ok is False] == []
    assert find(checks, "dump and restore").found.endswith(" dumped and restored a process")
    require(checks)


def test_the_tools_are_verified(cache):
    tree = put_sealed_tree(cache, datetime.now(UTC), runc="v1.5.3")
    checks = doctor._check_tools(cache, tree)
    assert [(check.name, check.ok) for check in checks] == [
        ("tools", True),
        ("tools' age", None),
        ("runc", True),
        ("crun", None),
        ("criu", None),
    ]
    assert find(checks, "tools' age").found.startswith("0 days; ")
    assert find(checks, "runc").found == "1.5.3 has the fix for CVE-2026-119101 (fixed in 1.3.7, 1.4.4, 1.5.3)"
    assert find(checks, "criu").found.startswith("4.2.1-1 lacks the fix for CVE-2026-119614 (fixed in 4.3.1); runc")
    (tree / "usr/sbin/runc").write_text("evil")
    (check,) = doctor._check_tools(cache, tree)
    assert (check.name, check.ok) == ("tools", False)
    assert "usr/sbin/runc: its content has changed" in check.found


def test_tools_that_others_can_change_are_not_run(cache, monkeypatch):
    put_sealed_tree(cache, datetime.now(UTC), runc="v1.5.3")
    cache.chmod(0o777)
    monkeypatch.setattr(doctor, "_try_node", lambda tree: pytest.fail("it was run"))
    tools = find(examine_host(cache), "tools")
    assert tools.ok is False
    assert "lets others write" in tools.found
    assert tools.fix.endswith(f"chmod go-w {cache}")


def test_old_tools_are_to_be_updated(cache):
    tree = put_sealed_tree(cache, datetime.now(UTC) - timedelta(days=100), runc="v1.5.2")
    checks = doctor._check_tools(cache, tree)
    assert find(checks, "tools' age").fix == "warmstart node update"
    assert find(checks, "runc").ok is False


def test_programs_of_the_machine_are_examined(tmp_path, monkeypatch):
    put_programs(tmp_path, monkeypatch, "runc", "criu")
    (tmp_path / "bin/runc").write_text("#!/bin/sh\necho runc version 1.4.4; echo spec: 1.2.1\n")
    (tmp_path / "bin/criu").write_text("#!/bin/sh\necho Version: 4.2.1\n")
    monkeypatch.setattr(doctor, "RUNTIME_DIRECTORIES", ())
    runc, criu = examine_host_programs()
    assert (runc.ok, runc.fix) == (True, "")
    assert (criu.ok, criu.fix) == (None, "update this machine's criu")


def test_what_is_not_as_it_should_be_is_named():
    require([Check("a", True, ""), Check("b", None, "")])
    with pytest.raises(HostError, match=r"^a build would not work here: c, d$"):
        require([Check("a", True, ""), Check("b", None, ""), Check("c", False, ""), Check("d", False, "")])
