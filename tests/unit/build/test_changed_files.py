"""Where the changed files of a container are, is asked of its runtime and never of the container."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from warmstart.build.changed_files import complete_changes, find_files
from warmstart.core.progress import Progress, SilentListener
from warmstart.engine.cri import Root

STATUS = "Name:\tapp\nState:\tS\nPPid:\t{parent}\nTracerPid:\t0\nThreads:\t1\nNSpid:\t{pid}\nNSsid:\t{pid}\n"
IDS = "Uid:\t0 0 0 0\nGid:\t0 0 0 0\n"
STORE = "/store/overlay"


def write_process(proc: Path, pid: int, parent: int, mounts: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "status").write_text(STATUS.format(pid=pid, parent=parent) + IDS)
    (proc / str(pid) / "mountinfo").write_text(mounts)


def find_mount(point: str, upper: str, kind: str = "overlay") -> str:
    return f"36 35 0:99 / {point} rw - {kind} overlay rw,lowerdir=/l,upperdir={upper},workdir=/w\n"


@pytest.fixture
def running(tmp_path) -> Any:
    write_process(tmp_path, 7, 6, find_mount("/", "/etc"))
    engine = SimpleNamespace(proc=tmp_path)
    return SimpleNamespace(engine=engine, pid=7, root=Root(f"{STORE}/7a/merged", ("/proc", "/etc/hosts")))


@pytest.mark.parametrize("upper", [f"{STORE}/7a/diff", "7a/diff"])
def test_the_mounts_are_those_of_the_monitor(running, tmp_path, upper):
    write_process(tmp_path, 6, 1, find_mount("/", "/other") + find_mount(f"{STORE}/7a/merged", upper))
    changes = find_files(running)
    assert changes is not None
    assert (changes.upper, changes.mounts) == (Path(f"{STORE}/7a/diff"), {"proc", "etc/hosts"})


def test_another_file_system_is_a_warning(running, tmp_path):
    write_process(tmp_path, 6, 1, find_mount(f"{STORE}/7a/merged", "/u", "btrfs"))
    progress = Progress(SilentListener())
    context: Any = SimpleNamespace(progress=progress)
    assert complete_changes(context, running, tmp_path / "archive", tmp_path) is None
    assert "may lack changes to files of the base image" in progress.warnings[0]
