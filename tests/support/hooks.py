"""Play the build for one program with hooks: a directory with the FIFOs, without a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[2] / "hooks"
FIFOS = ("checkpoint", "reply", "restored")
TIMEOUT_S = 60.0


class Hooks:
    """The directory that a build puts into its container, and the programs that run with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(SOURCES, directory)
        for name in FIFOS:
            os.mkfifo(directory / name)
        self._reply = os.open(directory / "reply", os.O_RDWR | os.O_NONBLOCK)
        self._received = b""
        self._programs: list[subprocess.Popen[str]] = []

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a program as a build does, with its output in pipes."""
        program = subprocess.Popen(
            command,
            env={**os.environ, "WARMSTART_HOOKS": str(self.directory), **(environment or {})},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def events(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many lines of the programs, and return them."""
        deadline = time.monotonic() + TIMEOUT_S
        lines: list[bytes] = []
        while len(lines) < count:
            with suppress(BlockingIOError):
                self._received += os.read(self._reply, 65536)
            *lines, _ = self._received.split(b"\n")
            assert time.monotonic() < deadline, f"not {count} lines: {lines}"
            time.sleep(0.01)
        self._received = b"".join(line + b"\n" for line in lines[count:])
        return [json.loads(line) for line in lines[:count]]

    def request_checkpoint(self, count: int = 1) -> list[dict[str, Any]]:
        """Request the checkpoint, and return the answers of so many processes."""
        return self._open_for("checkpoint", count)

    def give_up(self, count: int = 1) -> list[dict[str, Any]]:
        """Give the checkpoint up, and return the answers of so many processes."""
        return self._open_for("restored", count)

    def _open_for(self, name: str, count: int) -> list[dict[str, Any]]:
        # Held open for reading as well, as by the build: a process in Node looks from time to time only.
        writer = os.open(self.directory / name, os.O_RDWR | os.O_NONBLOCK)
        try:
            return self.events(count)
        finally:
            os.close(writer)

    def move_elsewhere(self, *pids: int) -> None:
        """Continue the processes as if they were restored: without the FIFOs, and with open(2) started again.

        They are stopped first, as by a checkpoint: without the FIFOs, a process that runs does not wait, and may end.
        """
        for pid in pids:
            stop(pid)
        for name in ("checkpoint", "restored"):
            (self.directory / name).unlink()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End the programs and their processes."""
        for program in self._programs:
            with suppress(ProcessLookupError):  # with the processes that it has forked
                os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
        os.close(self._reply)


def stop(pid: int) -> None:
    """Stop all threads of a process: system calls in which they wait begin again when it continues."""
    os.kill(pid, signal.SIGSTOP)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that was about to end
            while "\nState:\tT" not in (task / "status").read_text():
                time.sleep(0.001)


def await_closed(pid: int, directory: Path) -> None:
    """Wait until a process has nothing of the directory open: it answers before it has closed the FIFO of answers."""
    deadline = time.monotonic() + TIMEOUT_S
    while found := [path for path in _open_files(pid) if path.startswith(str(directory))]:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(link.readlink()))
    return found
