"""Fingerprints distinguish a restored process from a new one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warmstart.dump.criu.fingerprint import read_identity

pytestmark = pytest.mark.linux

PROC = Path("/proc")
# Goes on when it is told to: first as a child of its own, then as another program.
LIFE = """
import os, sys
def say(*words): print(*words, flush=True); sys.stdin.readline()
say("started", os.getpid())
child = os.fork()
if child == 0:
    say("forked", os.getpid())
    program = "import os, sys; print('new', os.getpid(), flush=True); sys.stdin.readline()"
    os.execv(sys.executable, [sys.executable, "-c", program])
os.waitpid(child, 0)
"""


@contextmanager
def start(*command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def step(process: subprocess.Popen[str], word: str) -> int:
    """Return the pid of the process that prints the word."""
    said, pid = process.stdout.readline().split()
    assert said == word
    return int(pid)


def go_on(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def echo(cat: subprocess.Popen[str]) -> None:
    """Wait for an echo from cat: right after Popen, the new program's auxiliary vector is still empty."""
    cat.stdin.write("x\n")
    cat.stdin.flush()
    assert cat.stdout.readline() == "x\n"


def test_it_lasts_as_long_as_the_program():
    with start("cat") as process:
        echo(process)
        first = read_identity(PROC, process.pid)
        echo(process)
        assert read_identity(PROC, process.pid) == first
    assert re.fullmatch("[0-9a-f]{64}", first)


def test_each_start_has_another():
    with start("cat") as one, start("cat") as two:
        echo(one)
        echo(two)
        assert read_identity(PROC, one.pid) != read_identity(PROC, two.pid)


def test_a_child_has_its_parents_until_it_becomes_another_program():
    with start(sys.executable, "-c", LIFE) as process:
        parent = read_identity(PROC, step(process, "started"))
        go_on(process)
        child = step(process, "forked")
        assert read_identity(PROC, child) == parent
        go_on(process)
        assert step(process, "new") == child
        assert read_identity(PROC, child) != parent
        go_on(process)


def test_a_process_that_is_gone_is_an_os_error():
    with start("true") as process:
        process.wait()
    with pytest.raises(FileNotFoundError):
        read_identity(PROC, process.pid)


def test_a_process_whose_vector_says_nothing_has_none(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1/auxv").write_bytes(bytes(16))
    with pytest.raises(ValueError, match="process 1 has no AT_RANDOM"):
        read_identity(tmp_path, 1)
