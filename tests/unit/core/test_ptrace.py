"""A thread is asked, and goes on as if nothing had happened, whatever it is doing and whatever it tries."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warmstart.core import ptrace
from warmstart.core.own_thread import run_in_own_thread
from warmstart.core.ptrace import NotNowError, StoppedThread, is_supported, stop_thread

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(not is_supported(), reason="only x86-64 is supported"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
PRCTL, GET_SUBREAPER, GET_DUMPABLE = 157, 37, 3
START = """
import ctypes, os, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
print("ready", flush=True)
"""


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """Allow for a machine that has other work."""
    monkeypatch.setattr(ptrace, "STOP_S", 60)
    monkeypatch.setattr(ptrace, "CALL_S", 60)


@contextlib.contextmanager
def running(code: str, *, before: str = "", states: str = "S") -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and wait until it is in one of these states: by default, it sleeps."""
    command = [sys.executable, "-S", "-c", START.replace("print(", f"{before}\nprint(") + code]
    # Without a buffer: `communicate` does not return lines that `readline` has read ahead.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while read_stat(process.pid)[0] not in states:
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def read_stat(pid: int) -> list[str]:
    """Return the state of a process, and the numbers that follow it in /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ask(number: int, *, is_filtered: bool = False) -> int:
    """Return whether the process is a subreaper."""

    def read(stopped: StoppedThread) -> int:
        with stopped.page() as page:
            stopped.call(PRCTL, GET_SUBREAPER, page)
            return int(struct.unpack("=i", stopped.read(page, 4))[0])

    return do(number, read, is_filtered=is_filtered)


def do(number: int, work: Callable[[StoppedThread], int], *, is_filtered: bool = False) -> int:
    def trace() -> int:
        with stop_thread(number, is_filtered=is_filtered) as stopped:
            return work(stopped)

    return run_in_own_thread(trace)


@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(2)",
        "select.select([0], [], [], 2)",
        "select.poll().poll(2000)",
        "threading.Event().wait(2)",
        "os.read(0, 1)",
        "signal.sigtimedwait([signal.SIGUSR1], 2)",
    ],
)
def test_a_thread_that_waits_is_asked_and_waits_on(wait):
    code = f"began = time.monotonic(); {wait}; print(time.monotonic() - began, flush=True)"
    with running(code) as process:
        began = time.monotonic()
        for _ in range(20):
            assert ask(process.pid) == 1
            if (asked_s := time.monotonic() - began) > 1:
                break
        if "read" in wait:
            out, _ = process.communicate(b"x")
            assert float(out) >= asked_s
        else:
            out = process.stdout.read()
            assert float(out) >= 1.9
        assert process.wait() == 0


def test_its_memory_is_as_before():
    with running("time.sleep(9)") as process:
        maps = Path(f"/proc/{process.pid}/maps")
        before = maps.read_text()
        assert ask(process.pid) == 1
        assert maps.read_text() == before


def test_an_error_is_told_and_the_next_call_succeeds():
    def work(stopped: StoppedThread) -> int:
        with pytest.raises(OSError, match="Invalid argument"):
            stopped.call(PRCTL, 9999)
        return stopped.call(PRCTL, GET_DUMPABLE)

    with running("time.sleep(9)") as process:
        assert do(process.pid, work) == 1
        assert process.poll() is None


def test_an_error_of_this_process_changes_nothing_for_the_thread():
    def fail(_: StoppedThread) -> int:
        raise RuntimeError("of the test")

    with running("os.read(0, 1); print('waited', flush=True)") as process:
        with pytest.raises(RuntimeError, match="of the test"):
            do(process.pid, fail)
        assert process.communicate()[0] == b"waited\n"


def test_filters_that_kill_are_suspended():
    """The filter ends the process at prctl(2), mmap(2) and munmap(2)."""
    filtering = """
import struct
rules = [(0x20, 0, 0, 0)]
for number in (157, 9, 11):
    rules += [(0x15, 0, 1, number), (0x06, 0, 0, 0x80000000)]
rules.append((0x06, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, program, 0, 0) == 0
"""
    with running("os.read(0, 1); os.write(1, b'alive'); os._exit(0)", before=filtering) as process:
        assert ask(process.pid, is_filtered=True) == 1
        assert process.communicate()[0] == b"alive"


def test_a_thread_that_computes_is_left_alone():
    with running("while True: pass", states="R") as process:
        while int(read_stat(process.pid)[11]) < int(os.sysconf("SC_CLK_TCK")) // 4:  # ticks in its own code
            time.sleep(0.01)
        with pytest.raises(NotNowError, match="not in a system call"):
            ask(process.pid)
        assert process.poll() is None


def test_a_stopped_process_is_asked_and_stays_stopped():
    with running("os.read(0, 1); print('waited', flush=True)") as process:
        process.send_signal(signal.SIGSTOP)
        await_stop(process.pid)
        assert ask(process.pid) == 1
        assert ask(process.pid) == 1
        await_stop(process.pid)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == b"waited\n"


def await_stop(pid: int) -> None:
    while read_stat(pid)[0] != "T":
        time.sleep(0.01)


def test_a_signal_that_comes_meanwhile_arrives_afterwards():
    code = "signal.signal(signal.SIGUSR1, lambda *_: print('signal', flush=True)); print('set', flush=True)\n"

    def signal_it(stopped: StoppedThread) -> int:
        os.kill(stopped.number, signal.SIGUSR1)
        return stopped.call(PRCTL, GET_DUMPABLE)

    with running(code + "os.read(0, 1); print('end', flush=True)") as process:
        assert do(process.pid, signal_it) == 1
        assert process.communicate()[0] == b"set\nsignal\nend\n"


def test_what_has_ended_is_not_asked():
    with running("", states="Z") as process:
        process.wait()
        with pytest.raises((NotNowError, OSError)):
            ask(process.pid)


def test_a_process_that_changes_its_code_meanwhile_gains_nothing():
    """Another thread swaps the instruction of the call with a jump to itself, and with another number of a call."""
    code = """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
# mov eax, 35; lea rdi, [rip + 18]; xor esi, esi; syscall; jmp to the first instruction; the time: 10 ms
page[:] = bytes.fromhex("b823000000 488d3d12000000 31f6 0f05 ebee".replace(" ", "")).ljust(4096, b"\\0")
page[30:46] = struct.pack("qq", 0, 10_000_000)
waiting = threading.Thread(target=ctypes.CFUNCTYPE(None)(address), daemon=True)
waiting.start()
print(waiting.native_id, flush=True)
while True:
    page[14:16] = bytes.fromhex("ebfe")
    time.sleep(0.0003)
    page[14:16] = bytes.fromhex("0f05")
    time.sleep(0.0003)
"""
    with running(code) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        outcomes = set()
        for _ in range(60):
            try:
                outcomes.add(ask(number))
            except (NotNowError, OSError) as error:
                outcomes.add(type(error).__name__)
        assert outcomes <= {1, "NotNowError", "OSError"}
        assert process.poll() is None
        assert Path(f"/proc/{process.pid}/status").read_text().count("TracerPid:\t0") == 1
