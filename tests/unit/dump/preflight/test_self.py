"""Properties of real processes that prevent an image from restoring itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warmstart.core.errors import AppError
from warmstart.dump.preflight.self import check_launched
from warmstart.recipe.model import Volume, VolumeKind, VolumeMount

pytestmark = pytest.mark.linux

PROC = Path("/proc")
FORK = "child = os.fork()\nif not child: signal.pause()\n"
THREAD = "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
SHARED = """
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
number = libc.shmget(0, 4096, 0o600)
assert libc.shmat(number, None, 0) and libc.shmctl(number, 0, None) == 0
"""


@contextmanager
def run(script: str, user: int | None = None) -> Iterator[int]:
    """Run a script until the end of the block, and yield its pid when it is ready."""
    text = f"import ctypes, os, signal, sys, threading, time\n{script}\nprint('ready', flush=True)\nsignal.pause()\n"
    command = [sys.executable, "-S", "-c", text]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, user=user)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()


def find_codes(script: str) -> list[str]:
    with run(script) as pid:
        return [finding.code for finding in check_launched(PROC, pid)]


@pytest.mark.parametrize(
    ("script", "codes"),
    [
        ("", []),
        (FORK + THREAD, []),
        (THREAD + FORK, ["thread-before-process"]),
        (SHARED, ["sysv-shm-self"]),
        ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))", ["few-descriptors"]),
        ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (101, 101))", []),
    ],
    ids=["plain", "thread after process", "thread before process", "shared memory", "few descriptors", "enough"],
)
def test_what_is_known_not_to_restore_itself_is_found(script, codes):
    assert find_codes(script) == codes


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_a_process_of_another_user_is_found_unless_a_restore_may_become_that_user():
    script = "end, other = os.pipe()\nif not os.fork(): os.setuid(1000); os.close(other); signal.pause()\n"
    with run(script + "os.close(other); os.read(end, 1); os.close(end)") as pid:
        assert [finding.code for finding in check_launched(PROC, pid)] == ["another-user"]
        assert check_launched(PROC, pid, becomes_others=True) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_a_program_that_its_user_may_only_run_is_found():
    # Not in a directory that the launcher keeps.
    with tempfile.TemporaryDirectory(dir="/var") as directory:
        Path(directory).chmod(0o755)
        program = shutil.copy(shutil.which("sleep"), directory)
        script = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        # The pipe is closed when the program begins.
        script += f"end, other = os.pipe()\nif not os.fork(): os.execv({program!r}, ['sleep', '60'])\n"
        script += "os.close(other); os.read(end, 1); os.close(end)"
        for mode, is_found in ((0o711, True), (0o755, False)):
            Path(program).chmod(mode)
            with run(script) as pid:
                found = {finding.code for finding in check_launched(PROC, pid)}
                assert ("file-not-readable" in found) == is_found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_files_in_tmp_that_are_not_the_applications_are_found():
    with tempfile.NamedTemporaryFile(dir="/tmp") as other, tempfile.NamedTemporaryFile(dir="/tmp") as own:
        os.chown(other.fileno(), 1000, 1000)
        assert find_codes(f"kept = open({other.name!r})") == ["seed-of-others"]
        assert find_codes(f"kept = open({own.name!r}, 'w')") == []


@pytest.fixture
def mounted(tmp_path) -> tuple[Path, Path]:
    """Return a directory, and another one to mount it on with `MOUNT`."""
    source, point = tmp_path / "source", tmp_path / "point"
    source.mkdir()
    point.mkdir()
    (source / "app.conf").write_text("text")
    (tmp_path / "link").symlink_to(point)
    return source, point


MOUNT = """
assert ctypes.CDLL(None).unshare(0x20000) == 0
assert ctypes.CDLL(None).mount(None, b"/", None, 0x44000, None) == 0
assert ctypes.CDLL(None).mount(b"{}", b"{}", None, 0x1000, None) == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_files_of_others_in_a_new_volume_are_found(mounted):
    source, point = mounted
    volume = VolumeMount(Volume("data", VolumeKind.EMPTY_DIR), str(point.parent / "link"))
    mount, use = MOUNT.format(source, point), f"kept = open('{point}/app.conf')"
    with run(mount + use) as pid:
        assert check_launched(PROC, pid, [volume]) == ()
    os.chown(source / "app.conf", 1000, 1000)
    with run(mount + use) as pid:
        assert [finding.code for finding in check_launched(PROC, pid, [volume])] == ["seed-of-others"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look at a process that is ending")
def test_processes_that_end_meanwhile_are_nothing_to_complain_of():
    """A shell starts hundreds of commands, one after the other."""
    forks = "while True:\n    child = os.fork()\n    if not child: os._exit(0)\n    os.waitpid(child, 0)\n"
    script = "\n".join(f"    {line}" for line in forks.splitlines())
    with run(f"def churn():\n{script}\nif not os.fork(): churn()\n") as pid:
        for _ in range(50):
            assert check_launched(PROC, pid) == ()


def test_an_application_that_has_ended():
    with run("") as pid:
        pass
    with pytest.raises(AppError, match="has ended"):
        check_launched(PROC, pid)
