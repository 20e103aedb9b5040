"""What is written beside its place: private, whole or not at all, and swept when its writer was killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from warmstart.core.partial import replace_file, sweep_partials, write_beside

WRITER = """
import sys, time
from pathlib import Path
from warmstart.core.partial import write_beside
with write_beside(Path(sys.argv[1]), directory=sys.argv[2] == "directory") as partial:
    if partial.is_dir():
        (partial / "inside").touch()
    print(partial, flush=True)
    time.sleep(1000)
"""


@pytest.fixture(params=["file", "directory"])
def left(request, tmp_path) -> Path:
    """What a killed command left."""
    command = [sys.executable, "-c", WRITER, tmp_path / "image.tar", request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        partial = Path(writer.stdout.readline().strip())
        sweep_partials(tmp_path)
        assert partial.exists(), "it is being written"
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    return partial


def test_what_a_killed_command_left_is_removed_by_the_next(left, tmp_path):
    with write_beside(tmp_path / "other.tar") as partial:
        assert not left.exists()
        partial.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["other.tar"]


@pytest.mark.parametrize(
    ("umask", "mode"),
    [
        (0, 0o600),
        pytest.param(
            0o277, 0o400, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to a read-only file")
        ),
    ],
)
def test_only_its_owner_can_read_it(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with write_beside(tmp_path / "image.tar") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == mode
            partial.write_text("memory")
        with write_beside(tmp_path / "layout", directory=True) as partial:
            assert not partial.stat().st_mode & 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "image.tar").stat().st_mode) == mode


def test_an_older_file_is_replaced_with_its_mode(tmp_path):
    (tmp_path / "image.tar").write_text("old")
    (tmp_path / "image.tar").chmod(0o644)
    with write_beside(tmp_path / "image.tar") as partial:
        partial.write_text("new")
    assert (tmp_path / "image.tar").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "image.tar").stat().st_mode) == 0o600


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), write_beside(tmp_path / "image.tar"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_stays(tmp_path):
    names = ["image.partial", ".image.partial", ".image.tar.1-0123.partial", ".image.tar.1-0123456g.partial"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".a.1-01234567.partial").symlink_to("precious")
    if os.geteuid() == 0:
        (tmp_path / ".b.1-01234567.partial").touch()
        os.chown(tmp_path / ".b.1-01234567.partial", 12345, -1)
        names.append(".b.1-01234567.partial")
    sweep_partials(tmp_path)
    assert all((tmp_path / name).exists() for name in names)
    assert (tmp_path / "precious").read_text() == "precious"


def test_there_may_be_no_directory(tmp_path):
    sweep_partials(tmp_path / "none")


@pytest.mark.parametrize("directory", [False, True], ids=["file", "directory"])
def test_commands_that_sweep_meanwhile_take_nothing_away(tmp_path, directory):
    """A directory is not locked yet in the moment after it was made."""

    def sweep() -> None:
        while not done.is_set():
            sweep_partials(tmp_path)

    done = threading.Event()
    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for number in range(300):
            with write_beside(tmp_path / f"{number}", directory=directory) as partial:
                assert partial.exists()
    finally:
        done.set()
        for sweeper in sweepers:
            sweeper.join()


@pytest.mark.parametrize(("old", "asked", "mode"), [(0o640, None, 0o640), (0o640, 0o644, 0o644), (None, 0o600, 0o600)])
def test_a_file_is_replaced(tmp_path, old, asked, mode):
    target = tmp_path / "file"
    if old is not None:
        target.write_text("old")
        target.chmod(old)
    with replace_file(target, mode=asked) as file:
        file.write(b"new")
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("new", mode)
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_stays_after_an_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(TypeError), replace_file(tmp_path / "file") as file:
        file.write("text")
    assert (tmp_path / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "file.new").symlink_to("precious")
    with pytest.raises(FileExistsError), replace_file(tmp_path / "file"):
        pass
    assert not (tmp_path / "precious").exists()
