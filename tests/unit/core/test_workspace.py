"""Workspaces: there while they are needed, gone afterwards, whoever else makes and removes them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.nested import nest

from warmstart.core import workspace
from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.workspace import LOCK, open_workspace, remove_workspace, sweep_workspaces, workspace_parent

HOLD = """
import sys
from warmstart.core.workspace import open_workspace
with open_workspace("held") as directory:
    (directory / "file").touch()
    print(directory, flush=True)
    sys.stdin.read()
"""
MAKE_MANY = """
from warmstart.core.workspace import open_workspace
for _ in range(150):
    with open_workspace("many") as directory:
        (directory / "file").write_text("x")
        assert (directory / "file").read_text() == "x"
"""


@pytest.fixture(autouse=True)
def parent(tmp_path, monkeypatch) -> Path:
    """Where the workspaces of these tests are made."""
    monkeypatch.setenv("WARMSTART_TMPDIR", str(tmp_path))
    return tmp_path


def start_holder() -> tuple[subprocess.Popen, Path]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return holder, Path(holder.stdout.readline().strip())


def end_holder(holder: subprocess.Popen) -> None:
    with holder:
        holder.stdin.close()
    assert holder.returncode == 0


def kill_holder(holder: subprocess.Popen) -> None:
    with holder:
        holder.kill()
    assert holder.returncode == -signal.SIGKILL


def fill_and_fail(directory: Path, error: BaseException) -> None:
    fill(directory)
    raise error


def remove_and_fail(directory: Path, error: BaseException) -> None:
    remove_workspace(directory)
    raise error


def fill(directory: Path) -> None:
    (directory / "deep" / "er").mkdir(parents=True)
    (directory / "deep" / "er" / "file").touch()
    (directory / "link").symlink_to("/etc")
    (directory / "file").touch(mode=0o400)


def test_a_workspace_is_ours_alone_and_gone_at_the_end(parent):
    with open_workspace("test") as directory:
        assert directory.parent == parent
        assert directory.name.startswith("warmstart-test-")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        fill(directory)
    assert list(parent.iterdir()) == []
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("error", [WarmstartError("broken"), ZeroDivisionError(), KeyboardInterrupt(), SystemExit(143)])
def test_a_workspace_is_gone_after_an_error(parent, error):
    with pytest.raises(type(error)) as caught, open_workspace("test") as directory:
        fill_and_fail(directory, error)
    assert caught.value is error
    assert list(parent.iterdir()) == []


def test_evidence_is_kept_and_the_error_says_where(parent):
    with pytest.raises(WarmstartError) as caught, open_workspace("test", keep_evidence=True) as directory:
        fill_and_fail(directory, WarmstartError("broken", details=["why"]))
    assert caught.value.details == ("why", f"workspace kept for inspection: {directory}")
    sweep_workspaces()
    assert sorted(entry.name for entry in directory.iterdir()) == ["deep", "file", "link"]


def test_no_evidence_is_kept_of_success_or_an_interruption(parent):
    with open_workspace("test", keep_evidence=True):
        pass
    with pytest.raises(KeyboardInterrupt), open_workspace("test", keep_evidence=True):
        raise KeyboardInterrupt
    assert list(parent.iterdir()) == []


def test_a_workspace_that_somebody_removed_hides_no_error():
    with pytest.raises(WarmstartError, match="broken"), open_workspace("test", keep_evidence=True) as directory:
        remove_and_fail(directory, WarmstartError("broken"))
    with pytest.raises(ZeroDivisionError), open_workspace("test") as directory:
        remove_and_fail(directory, ZeroDivisionError())


def test_what_a_killed_command_left_goes_with_the_next_one(parent):
    holder, left = start_holder()
    kill_holder(holder)
    assert left.exists()
    with open_workspace("next") as directory:
        assert list(parent.iterdir()) == [directory]


def test_a_sweep_leaves_what_another_command_uses():
    holder, held = start_holder()
    sweep_workspaces()
    assert (held / "file").exists()
    end_holder(holder)
    assert not held.exists()


def test_a_removal_that_was_interrupted_is_finished_by_a_sweep(parent, monkeypatch):
    """The lock file tells what is a leftover: it must be the last to go."""
    left = parent / "warmstart-left"
    left.mkdir()
    (left / LOCK).touch()
    for name in ("a", "b", "c", "z"):
        (left / name).mkdir()
    # Each time, that many of the four are removed before the next is interrupted.
    for number in (0, 1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(workspace, "remove_directory", interrupt_after(number))
            with pytest.raises(KeyboardInterrupt):
                remove_workspace(left)
        assert (left / LOCK).exists()
    sweep_workspaces()
    assert list(parent.iterdir()) == []


def interrupt_after(calls: int) -> Callable[..., None]:
    left = [None] * calls

    def interrupted(path: Path, **_: object) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        path.rmdir()

    return interrupted


def test_what_cannot_be_removed_is_still_known_for_a_leftover(parent):
    if os.geteuid() != 0:
        pytest.skip("needs root to make a file that cannot be removed")
    left = parent / "warmstart-left"
    (left / "mounted").mkdir(parents=True)
    (left / LOCK).touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", left / "mounted"], check=True)
    try:
        sweep_workspaces()
        assert (left / LOCK).exists()
    finally:
        subprocess.run(["umount", left / "mounted"], check=True)
    sweep_workspaces()
    assert not left.exists()


def test_a_sweep_leaves_what_only_looks_like_a_workspace(parent):
    (parent / "warmstart-cache" / "trees").mkdir(parents=True)
    (parent / "warmstart-cache" / "lock").touch()
    (parent / "mine").mkdir()
    (parent / "mine" / LOCK).touch()
    sweep_workspaces()
    assert sorted(path.name for path in parent.iterdir()) == ["mine", "warmstart-cache"]


def test_a_sweep_leaves_what_belongs_to_somebody_else(parent):
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    theirs = parent / "warmstart-theirs"
    theirs.mkdir()
    # Opening it would wait for ever.
    os.mkfifo(theirs / LOCK)
    os.chown(theirs, 65534, 65534)
    sweep_workspaces()
    assert theirs.exists()


def test_commands_at_once_do_not_take_each_others_workspaces(parent):
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(subprocess.run, [sys.executable, "-c", MAKE_MANY], capture_output=True, text=True, check=False)
            for _ in range(4)
        ]
        results = [run.result() for run in runs]
    assert [(done.returncode, done.stderr) for done in results] == [(0, "")] * 4
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("missing", "No such file or directory"),
        ("file", "Not a directory"),
        pytest.param("/proc", "", marks=pytest.mark.linux),
    ],
)
def test_a_place_where_none_can_be_made_is_the_hosts_fault(parent, monkeypatch, place, why):
    (parent / "file").touch()
    monkeypatch.setenv("WARMSTART_TMPDIR", str(parent / place))
    with pytest.raises(HostError, match=f"^cannot create a directory in {parent / place}: {why}") as caught:
        open_workspace("test").__enter__()
    assert "WARMSTART_TMPDIR" in caught.value.hint


def test_workspaces_lie_in_var_tmp_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("WARMSTART_TMPDIR")
    assert workspace_parent() == Path("/var/tmp")
    monkeypatch.setenv("WARMSTART_TMPDIR", "")
    assert workspace_parent() == Path("/var/tmp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WARMSTART_TMPDIR", "here")
    assert workspace_parent() == tmp_path / "here"


def test_temporary_files_of_libraries_and_programs_lie_with_the_workspaces(parent):
    script = """
import os, subprocess, tempfile
from warmstart.core.workspace import use_for_temporary_files
use_for_temporary_files()
print(tempfile.gettempdir())
print(subprocess.run(["mktemp", "--dry-run"], stdout=subprocess.PIPE, text=True).stdout.rpartition("/")[0])
"""
    environment = {**os.environ, "TMPDIR": "/elsewhere"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().split() == [str(parent)] * 2


def test_directories_deeper_than_recursion_goes_are_removed(parent):
    with open_workspace("deep") as directory:
        nest(directory)
    assert list(parent.iterdir()) == []
