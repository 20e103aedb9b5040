"""A machine for real dumps: its own namespaces, and a Debian tree with CRIU that it does not change."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.once import MakeOnce
from support.tars import extract

from warmstart.node.tree import tree_path

PROGRAMS = Path(__file__).parent / "programs"

_QUIET = ("--network-lock", "skip", "--manage-cgroups=ignore")

_KEEPER = """
import os, signal, subprocess, sys
base, tree = sys.argv[1:]
root = f"{base}/root"
def mount(*words): subprocess.run(["mount", *words], check=True)
mount("--make-rprivate", "/")
mount("-t", "tmpfs", "scratch", f"{base}/overlay")
os.mkdir(f"{base}/overlay/upper"); os.mkdir(f"{base}/overlay/work")
layers = f"lowerdir={tree},upperdir={base}/overlay/upper,workdir={base}/overlay/work"
mount("-t", "overlay", "overlay", "-o", layers, root)
mount("-t", "proc", "proc", f"{root}/proc")
mount("-t", "sysfs", "sysfs", f"{root}/sys")
mount("-t", "tmpfs", "tmpfs", f"{root}/dev")
for name in ("null", "zero", "full", "random", "urandom"):
    open(f"{root}/dev/{name}", "w").close()
    mount("--bind", f"/dev/{name}", f"{root}/dev/{name}")
os.mkdir(f"{root}/scratch")
mount("--bind", f"{base}/scratch", f"{root}/scratch")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print("ready", flush=True)
while True:  # as PID 1, collect whatever was left behind: a PID is free for a restore only then
    signal.sigwait({signal.SIGCHLD})
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0): pass
    except ChildProcessError: pass
"""


_WHEN_ALONE = 'while read -r _ _ _ parent _ < /proc/$$/stat && [ "$parent" != 1 ]; do sleep 0.01; done; exec "$@"'


class Machine:
    """Runs programs in the machine. `scratch` is /scratch there."""

    def __init__(self, keeper_pid: int, root: Path, scratch: Path) -> None:
        self.keeper_pid = keeper_pid
        self.root = root
        self.scratch = scratch

    def words(self, *argv: str | Path) -> list[str]:
        enter = ["nsenter", f"--target={self.keeper_pid}", "--mount", "--pid", "--net", "--ipc", "--uts"]
        return [*enter, "chroot", str(self.root), *map(str, argv)]

    def run(self, *argv: str | Path) -> str:
        done = subprocess.run(self.words(*argv), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def bind(self, directory: Path) -> None:
        """Mount a directory of the host at the same path in the machine."""
        inside = Path(f"{self.root}{directory}")
        enter = ["nsenter", f"--target={self.keeper_pid}", "--mount"]
        for line in (["mkdir", "-p", inside], ["mount", "--bind", directory, inside]):
            subprocess.run([*enter, *line], check=True, timeout=10)

    def start(self, name: str, *argv: str | Path) -> int:
        """Start a daemon that writes to scratch/NAME.out, wait for `ready`, and return its PID in the machine."""
        # It begins when its parent has ended: a program may ask to be killed at that moment.
        line = f'setsid sh -c "$@" </dev/null >/scratch/{name}.out 2>&1 & echo $!'
        pid = int(self.run("sh", "-c", line, "sh", _WHEN_ALONE, "sh", *argv))
        self.wait_for(name, "ready")
        return pid

    def wait_for(self, name: str, text: str, times: int = 1) -> str:
        """Wait until scratch/NAME.out contains the text this many times."""
        said = ""
        for _ in range(1200):
            said = (self.scratch / f"{name}.out").read_text()
            if said.count(text) >= times:
                return said
            time.sleep(0.05)
        raise AssertionError(f"{name} did not say {text!r} but: {said}")

    def dump(self, pid: int, name: str, *options: str) -> Path:
        """Dump a process tree and end it."""
        (self.scratch / name).mkdir()
        criu = ["criu", "dump", "-t", str(pid), "-D", f"/scratch/{name}", "-v4", "-o", "dump.log", *_QUIET, *options]
        self._criu(name, "dump.log", criu)
        return self.scratch / name

    def restore(self, name: str, *options: str) -> None:
        """Restore a dump, and let its processes run."""
        criu = ["criu", "restore", "-d", "-D", f"/scratch/{name}", "-v4", "-o", "restore.log", *_QUIET, *options]
        self._criu(name, "restore.log", criu)

    def _criu(self, name: str, log: str, argv: list[str]) -> None:
        done = subprocess.run(self.words(*argv), capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, (self.scratch / name / log).read_text()[-3000:]

    def kill(self, pid: int, with_signal: int = signal.SIGKILL) -> None:
        self.run("sh", "-c", f"kill -{with_signal} {pid}")
        while with_signal == signal.SIGKILL and self.proc(pid).exists():
            time.sleep(0.01)

    def inside(self, path: Path) -> Path:
        """Return the path of a file in the machine as seen by the test."""
        return Path(f"/proc/{self.keeper_pid}/root{self.root}{path}")

    def proc(self, pid: int) -> Path:
        """Return the /proc directory of a process in the machine."""
        return self.inside(Path(f"/proc/{pid}"))


@pytest.fixture(scope="session")
def tree() -> Path:
    """Return the tools directory, which contains criu."""
    tree = tree_path(Path(os.environ.get("WARMSTART_CACHE", Path.home() / ".cache/warmstart")))
    if os.geteuid() != 0 or not tree.is_dir():
        pytest.skip("needs root and the tools directory: make tools")
    return tree


@pytest.fixture
def machine(tree: Path, tmp_path: Path) -> Iterator[Machine]:
    """Return a new machine. All its processes and mounts end with it."""
    for name in ("overlay", "root", "scratch"):
        (tmp_path / name).mkdir()
    unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    keeper = subprocess.Popen(
        [*unshare, sys.executable, "-c", _KEEPER, str(tmp_path), str(tree)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text()
        yield Machine(int(children), tmp_path / "root", tmp_path / "scratch")
    finally:
        keeper.kill()
        keeper.wait()
        assert keeper.stdout is not None
        keeper.stdout.close()
        shutil.rmtree(tmp_path / "scratch")  # dumps are large


@pytest.fixture(scope="session")
def compile_program(make_once: MakeOnce) -> Callable[[str, Path], None]:
    """Compile programs/NAME.c once, and copy the program to a directory."""

    def compile_into(name: str, directory: Path) -> None:
        gcc = ["gcc", "-O1", "-D_GNU_SOURCE", "-static", "-pthread", PROGRAMS / f"{name}.c", "-o"]
        program = make_once(name, lambda path: subprocess.run([*gcc, path], check=True, timeout=60))
        shutil.copy2(program, directory / name)

    return compile_into


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Return a dump of programs/objects.c by CRIU 4.2.1. All pages except those with the command lines are blank."""
    directory = tmp_path / "sample"
    with tarfile.open(Path(__file__).parent / "samples/objects.tar.xz") as tar:
        extract(tar, directory)
    return directory
