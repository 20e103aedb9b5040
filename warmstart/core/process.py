"""The gateway to other programs: the only place that starts one.

A program that is missing, one that fails and one that takes too long are told apart, its standard error is
kept whole, its standard input is closed, and it always has a time limit. Programs run in a session of their own:
Ctrl-C at the terminal reaches us alone, and we end them.
(buildah alone is driven through `sh`, in `warmstart.image.buildah`.)
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from warmstart.core.errors import HostError, WarmstartError

log = logging.getLogger(__name__)

#: A program that has been started.
Running = subprocess.Popen[bytes]


class ProgramError(WarmstartError):
    """A program ended with a non-zero exit status, or ran out of time.

    Attributes:
        returncode: its exit status, or None when it was killed for taking too long.
        stderr: all that it wrote to its standard error.
    """

    def __init__(self, brief: str, *, returncode: int | None, stderr: str) -> None:
        super().__init__(brief, details=stderr.strip().splitlines()[-20:])
        self.returncode = returncode
        self.stderr = stderr


@dataclass(frozen=True)
class Finished:
    """A program that has ended: its exit status and what it wrote, decoded as UTF-8 with replacement."""

    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> Finished:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; never a shell line.
        timeout_s: seconds after which it is killed.
        check: raise when its exit status is not zero.
        env: its whole environment; the caller's own when None.
        cwd: the directory it runs in.
        stdin: text for its standard input, which is empty otherwise.

    Raises:
        HostError: there is no such program.
        ProgramError: it failed (and check is true), or took too long.
    """
    words = [str(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=None if stdin is None else stdin.encode(),
            capture_output=True,
            timeout=timeout_s,
            env=None if env is None else dict(env),
            cwd=cwd,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as missing:
        raise _no_such_program(words[0]) from missing
    except subprocess.TimeoutExpired as late:
        stderr = (late.stderr or b"").decode(errors="replace")
        brief = f"{words[0]} was stopped after {timeout_s:g} s: {shlex.join(words)}"
        raise ProgramError(brief, returncode=None, stderr=stderr) from late
    finished = Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and finished.returncode != 0:
        brief = f"{words[0]} failed with exit status {finished.returncode}: {shlex.join(words)}"
        raise ProgramError(brief, returncode=finished.returncode, stderr=finished.stderr)
    return finished


def stream(
    argv: Sequence[str | Path],
    *,
    on_line: Callable[[str], object],
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end, and call `on_line` with each line that it writes to either output.

    Raises:
        HostError: there is no such program.
        ProgramError: it failed, or took too long.
    """
    words = [str(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    lines: list[str] = []
    running = _start(words, env=env, stdout=subprocess.PIPE)
    assert running.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        running.kill()

    timer = threading.Timer(timeout_s, stop)
    timer.start()
    try:
        for line in running.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            on_line(lines[-1])
        running.wait()
    finally:
        timer.cancel()
        running.kill()
        running.wait()
        running.stdout.close()
    if late.is_set() or running.returncode != 0:
        end = f"was stopped after {timeout_s:g} s" if late.is_set() else f"failed with exit status {running.returncode}"
        code = None if late.is_set() else running.returncode
        raise ProgramError(f"{words[0]} {end}: {shlex.join(words)}", returncode=code, stderr="\n".join(lines))


def attach(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> int:
    """Run a program for the user, with our own terminal or pipes, as long as it takes; its exit status.

    Raises:
        HostError: there is no such program.
    """
    words = [str(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    try:
        return subprocess.run(words, env=None if env is None else dict(env), check=False).returncode
    except FileNotFoundError as missing:
        raise _no_such_program(words[0]) from missing


@contextlib.contextmanager
def background(
    argv: Sequence[str | Path], *, log_file: Path, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a program for the length of a `with` block; it is terminated, then killed, at the end.

    Both its outputs are appended to `log_file`.

    Raises:
        HostError: there is no such program.
    """
    words = [str(word) for word in argv]
    log.debug("+ %s &", shlex.join(words))
    with log_file.open("ab") as output:
        running = _start(words, env=env, stdout=output)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(timeout=5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _start(words: list[str], *, env: Mapping[str, str] | None, stdout: int | IO[bytes]) -> Running:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
    except FileNotFoundError as missing:
        raise _no_such_program(words[0]) from missing


def _no_such_program(name: str) -> HostError:
    return HostError(f"{name}: there is no such program on this machine")
