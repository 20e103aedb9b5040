"""Threads that Landlock rules bind are found, and no others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.running_python import running_python

from warmstart.core.ptrace import is_supported
from warmstart.dump.state import asked, landlock
from warmstart.dump.state.model import LANDLOCK
from warmstart.dump.state.read import read_state

START = """
import ctypes, os, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)

def bind(files, net, scopes):
    rules = ctypes.create_string_buffer(struct.pack("=QQQ", files, net, scopes))
    found = libc.syscall(444, rules, 24, 0)
    assert found >= 0 and libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(446, found, 0) == 0

def become(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)

def stay():
    print("ready", flush=True)
    sys.stdin.read()

"""


def knows_landlock() -> bool:
    command = [sys.executable, "-S", "-c", START + "assert libc.syscall(444, None, 0, 1) >= 6"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(not is_supported(), reason="only x86-64 is supported"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not knows_landlock(), reason="needs Landlock of Linux 6.12"),
]


def running(code: str) -> contextlib.AbstractContextManager[int]:
    return running_python("-c", START + code)


def find(pid: int) -> set[str]:
    state = read_state(Path("/proc"), pid, with_restrictions=True)
    return {subject for subject, facts in state.subjects.items() if facts.get(LANDLOCK) == "yes"}


@pytest.mark.parametrize("rules", ["1 << 8, 0, 0", "0, 1, 0", "0, 0, 1"], ids=["files", "net", "scopes"])
@pytest.mark.parametrize("user", [0, 1000])
def test_a_thread_with_any_rules_is_found(rules, user):
    with running(f"become({user}); bind({rules}); stay()") as pid:
        assert find(pid) == {f"thread {pid}"}


@pytest.mark.parametrize("user", [0, 1000])
def test_a_thread_with_other_restrictions_is_not(user):
    code = f"become({user}); libc.prctl(38, 1, 0, 0, 0); libc.prctl(4, 0, 0, 0, 0); stay()"
    with running(code) as pid:
        assert find(pid) == set()


def test_each_thread_has_rules_of_its_own():
    code = "threading.Thread(target=lambda: (bind(1, 0, 0), stay()), daemon=True).start(); threading.Event().wait()"
    with running(code) as pid:
        (found,) = find(pid)
        assert found != f"thread {pid}"


def test_the_processes_to_look_into_are_gone_afterwards(monkeypatch):
    seen: list[str] = []

    def look(_: object, __: int, number: int) -> bool:
        seen.append(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2][1])
        seen.append(f"/proc/{number}")
        return False

    monkeypatch.setattr(asked, "is_kept_out", look)
    with running("become(1000); bind(1, 0, 0); stay()") as pid:
        find(pid)
    state, path = seen
    assert state == "Z"
    assert not Path(path).exists()


def test_without_anybody_to_look_into_nothing_is_known(monkeypatch):
    monkeypatch.setattr(landlock, "_read_label", lambda directory: directory.encode())
    with running("bind(1, 0, 0); stay()") as pid:
        assert find(pid) == set()
