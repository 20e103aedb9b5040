"""Taking over what the launcher left, where something else is there in its place."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from warmstart.core.errors import CheckpointError
from warmstart.dump.archive.archive import DEFAULT_LIMITS, Limits
from warmstart.image.selfrestore.claim import claim_state

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")


@pytest.fixture
def state(tmp_path) -> Path:
    place = tmp_path / "state"
    (place / "checkpoint").mkdir(parents=True)
    (place / "checkpoint").chmod(0o700)
    for name in ("inventory.img", "core-100.img", "pages-1.img", "tmpfs-dev-3.tar.gz.img"):
        (place / "checkpoint" / name).write_text(name)
    (place / "manifest").write_text("warmstart 1\n")
    (place / "env").symlink_to("/dev/shm/somewhere")
    (place / "dump.log").touch()
    (place / "seed/tmp").mkdir(parents=True)
    (place / "seed/tmp/file").write_text("kept")
    return place


@pytest.fixture
def victim(tmp_path) -> Path:
    (tmp_path / "victims").mkdir()
    file = tmp_path / "victims/secret"
    file.write_text("secret")
    file.chmod(0o600)
    return file


def test_all_of_it_is_moved_to_where_only_its_owner_may_enter(state, tmp_path):
    into = tmp_path / "into"
    claim_state(state, into)
    assert stat.S_IMODE(into.stat().st_mode) == 0o700
    assert sorted(path.name for path in into.iterdir()) == ["checkpoint", "dump.log", "env", "manifest", "seed"]
    assert (into / "checkpoint/core-100.img").read_text() == "core-100.img"
    assert len(list((into / "checkpoint").iterdir())) == 4
    assert (into / "seed/tmp/file").read_text() == "kept"
    assert (into / "env").readlink() == Path("/dev/shm/somewhere")
    assert [path.name for path in state.rglob("*")] == ["checkpoint"]


@needs_root
def test_owners_are_kept(state, tmp_path):
    os.chown(state / "checkpoint", 1000, 1001)
    os.chown(state / "checkpoint/pages-1.img", 1000, 1001)
    claim_state(state, tmp_path / "into")
    for path in ("checkpoint", "checkpoint/pages-1.img"):
        status = (tmp_path / "into" / path).stat()
        assert (status.st_uid, status.st_gid) == (1000, 1001)


def test_a_seed_and_a_log_need_not_be_there(state, tmp_path):
    (state / "seed/tmp/file").unlink()
    (state / "seed/tmp").rmdir()
    (state / "seed").rmdir()
    (state / "dump.log").unlink()
    claim_state(state, tmp_path / "into")


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def link_hard(path: Path, victim: Path) -> None:
    os.link(victim, path)


def link_to_directory(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent)


def make_fifo(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path, victim: Path) -> None:
    path.mkdir()


def make_socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        directory = os.open(path.parent, os.O_RDONLY)
        own.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


def make_device(path: Path, victim: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


PLANTS = [link, link_to_nothing, link_hard, link_to_directory, make_fifo, make_directory, make_socket]


@pytest.mark.parametrize("plant", [*PLANTS, pytest.param(make_device, marks=needs_root)])
@pytest.mark.parametrize(
    "name",
    [
        "manifest",
        "manifest.new",
        "dump.log",
        "checkpoint/pages-1.img",
        "checkpoint/evil.img",
        "checkpoint/files.img.new",
        "checkpoint/pages-1.img.new",
        "checkpoint/.hidden.img",
        "checkpoint/stats-dump",
        "anything",
    ],
)
def test_what_is_in_the_place_of_a_file_is_refused(state, tmp_path, victim, name, plant):
    (state / name).unlink(missing_ok=True)
    plant(state / name, victim)
    refuse(state, tmp_path, victim)


@pytest.mark.parametrize("name", ["checkpoint", "seed"])
@pytest.mark.parametrize("plant", [link, link_hard, link_to_directory, make_fifo])
def test_what_is_in_the_place_of_a_directory_is_refused(state, tmp_path, victim, name, plant):
    (state / name).rename(tmp_path / "before")
    plant(state / name, victim)
    refuse(state, tmp_path, victim)


def test_a_link_in_the_place_of_all_is_not_followed(state, tmp_path):
    state.rename(tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        claim_state(state, tmp_path / "into")


@pytest.mark.parametrize("name", ["manifest", "checkpoint"])
def test_what_is_missing(state, tmp_path, victim, name):
    (state / name).rename(tmp_path / "before")
    refuse(state, tmp_path, victim, match=f"{name} is missing")


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        (Limits(members=3), "4 files; the limit is 3"),
        (Limits(total_bytes=10), "bytes; the limit is 10"),
        (Limits(json_bytes=5), "manifest is larger than 5"),
    ],
)
def test_limits(state, tmp_path, victim, limits, match):
    refuse(state, tmp_path, victim, match=match, limits=limits)


def refuse(state: Path, tmp_path: Path, victim: Path, match: str = "", limits: Limits | None = None) -> None:
    before = victim.stat()
    with pytest.raises(CheckpointError, match=match or "cannot use the launcher's checkpoint"):
        claim_state(state, tmp_path / "into", limits=limits or DEFAULT_LIMITS)
    after = victim.stat()
    assert victim.read_text() == "secret"
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_size) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
        before.st_size,
    )
    assert not victim.with_name("new").exists()
