"""A JVM with the agent, and the FIFOs between it and a build that the test plays."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.hooks import stop

TOP = Path(__file__).parents[2]
WAIT_S = 60.0


def build_agent(directory: Path) -> Path:
    """Build agent.jar into a directory, and return its path."""
    subprocess.run([TOP / "hooks/java/build.sh", directory], check=True)
    return directory / "agent.jar"


def compile_java(sources: Sequence[Path], class_path: Path | str, directory: Path) -> Path:
    """Compile programs into a directory, and return it."""
    command: list[str | Path] = ["javac", "-Xlint:-options", "--release", "11", "-cp", str(class_path), "-d", directory]
    subprocess.run([*command, *sources], check=True)
    return directory


class HooksDirectory:
    """The directory of the FIFOs as it is in a build's container, and the build's part of the protocol."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("reply", "checkpoint", "restored"):
            os.mkfifo(path / name)
        self._reply = os.open(path / "reply", os.O_RDWR | os.O_NONBLOCK)
        self._lines: list[str] = []
        self._rest = ""

    def close(self) -> None:
        os.close(self._reply)

    def message(self, event: str) -> dict[str, Any]:
        """Return the next message, and check its event."""
        end = time.monotonic() + WAIT_S
        while not self._lines:
            ready, _, _ = select.select([self._reply], [], [], end - time.monotonic())
            assert ready, f"no message {event!r} after {WAIT_S} s"
            *self._lines, self._rest = (self._rest + os.read(self._reply, 65536).decode()).split("\n")
        line = self._lines.pop(0)
        assert len(line) < select.PIPE_BUF
        message: dict[str, Any] = json.loads(line)
        assert message["event"] == event, message
        return message

    def silent(self) -> bool:
        """Say whether nothing was written."""
        return not self._lines and not select.select([self._reply], [], [], 0)[0]

    def request_checkpoint(self) -> None:
        """Wake the agents that wait for a checkpoint."""
        self._wake("checkpoint")

    def give_up(self) -> None:
        """Wake the agents that wait for a restore: there is none."""
        self._wake("restored")

    def restore(self, pid: int, after_s: float = 0) -> float:
        """Take the FIFOs away, and make the kernel begin the process's system calls again, as after a restore.

        Return the time at which the process continues.
        """
        stop(pid)
        for name in ("checkpoint", "restored"):
            (self.path / name).unlink()
        return freeze(pid, after_s)

    def _wake(self, name: str) -> None:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            with suppress(OSError):  # ENXIO: nobody waits yet
                os.close(os.open(self.path / name, os.O_WRONLY | os.O_NONBLOCK))
                return
            time.sleep(0.01)
        raise AssertionError(f"nobody waits in open({name})")


def freeze(pid: int, duration_s: float) -> float:
    """Stop a process for some time, and return the time at which it continues."""
    stop(pid)
    time.sleep(duration_s)
    continues = time.monotonic()
    os.kill(pid, signal.SIGCONT)
    return continues


class Jvm:
    """A running program; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def line(self) -> str:
        """Return the next line of standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str) -> None:
        """Write a line to standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        """Close standard input, and return the remaining lines when the program has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        output = self.process.stdout.read()  # `communicate` loses lines that `readline` has read ahead
        self.process.wait(WAIT_S)
        return output.splitlines()


@contextmanager
def run_java(
    arguments: Sequence[str | Path],
    agent: Path | None,
    hooks: Path | None,
    environment: Mapping[str, str] | None = None,
    java: str = "java",
) -> Iterator[Jvm]:
    """Run a Java program with the agent; standard error is on standard output too, without the JVM's own lines."""
    command: list[str | Path] = [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xlog:disable", "-Xlog:all=off"]
    if agent is not None:
        command.append(f"-javaagent:{agent}")
    variables = {**os.environ, **(environment or {})}
    if hooks is not None:
        variables["WARMSTART_HOOKS"] = str(hooks)
    with subprocess.Popen(
        [*command, *arguments],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Jvm(process)
        finally:
            process.kill()


def find_jvms() -> dict[str, str]:
    """Return the program java of each Java version on this machine, and those in $WARMSTART_JVMS, by their versions.

    scripts/runtimes.sh makes programs for that variable, in which colons separate them.
    """
    jvms = {}
    for java in sorted(Path("/usr/lib/jvm").glob("*/bin/java")):
        release = (java.parents[1] / "release").read_text() if (java.parents[1] / "release").exists() else ""
        for line in release.splitlines():
            if line.startswith("JAVA_VERSION="):
                jvms[line.split('"')[1].split(".")[0]] = str(java)
    for java in filter(None, os.environ.get("WARMSTART_JVMS", "").split(":")):
        version = subprocess.run([java, "-version"], check=True, capture_output=True, text=True).stderr
        jvms[version.split('"')[1].split(".")[0]] = java
    return jvms
