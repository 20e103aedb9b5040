"""The gateway to other programs: the only place that starts one.

A program that cannot be started, one that fails and one that takes too long are told apart, its standard error is
kept whole, its standard input is closed, and it always has a time limit. Programs run in a session of their own:
Ctrl-C at the terminal reaches us alone, and we end them, with what they have started in turn.
(buildah alone is driven through `sh`, in `warmstart.image.buildah`.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.held_signals import holding_signals

log = logging.getLogger(__name__)

#: A program that has been started.
Running = subprocess.Popen[bytes]

#: How long a program has to end by itself after it was asked, or after its only child was killed.
END_S = 5.0
_DETAILS = 20
_CHUNK_BYTES = 1 << 16


class ProgramError(WarmstartError):
    """A program ended with a non-zero exit status, or ran out of time.

    Attributes:
        end: how it ended, such as `failed with exit status 1`.
        returncode: its exit status, or None when it was killed for taking too long.
        stderr: all that it wrote to its standard error.
    """

    def __init__(self, words: Sequence[str], end: str, *, returncode: int | None, stderr: str) -> None:
        super().__init__(f"{words[0]} {end}: {shlex.join(words)}", details=stderr.strip().splitlines()[-_DETAILS:])
        self.end = end
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
    stdin: str | None = None,
    limit_bytes: int | None = None,
    is_proxy: bool = False,
) -> Finished:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; never a shell line.
        timeout_s: seconds after which it is killed.
        check: raise when its exit status is not zero.
        env: its whole environment; the caller's own when None.
        stdin: text for its standard input, which is empty otherwise.
        limit_bytes: bytes of output, of both kinds together, after which it is killed; None for no limit.
        is_proxy: whether it runs another program, and ends with that; see `_end_proxy`.

    Raises:
        HostError: there is no such program, or it cannot be started.
        ProgramError: it failed (and check is true), took too long, or wrote more than `limit_bytes`.
    """
    words = _log(argv)
    given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    pipe = subprocess.PIPE
    with _started(words, env=env, stdin=given, stdout=pipe, stderr=pipe, is_proxy=is_proxy) as running:
        sent = None if stdin is None else stdin.encode()
        try:
            if limit_bytes is None:
                out, err = running.communicate(sent, timeout=timeout_s)
            else:
                out, err = _communicate(running, sent or b"", timeout_s, limit_bytes)
        except _TooMuchError as much:
            end = f"was stopped after it wrote more than {limit_bytes} bytes"
            raise ProgramError(words, end, returncode=None, stderr="") from much
        except subprocess.TimeoutExpired as late:
            raise _too_late(words, timeout_s, (late.stderr or b"").decode(errors="replace")) from late
    finished = Finished(running.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and finished.returncode != 0:
        raise _failed(words, finished.returncode, finished.stderr)
    return finished


def stream(
    argv: Sequence[str | Path],
    *,
    on_line: Callable[[str], object],
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    is_proxy: bool = False,
) -> None:
    """Run a program to its end, and call `on_line` with each line that it writes to either output.

    `is_proxy` is as for `run`.

    Raises:
        HostError: there is no such program, or it cannot be started.
        ProgramError: it failed, or took too long.
    """
    words = _log(argv)
    deadline = time.monotonic() + timeout_s
    lines: list[str] = []
    with _started(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        is_proxy=is_proxy,
    ) as running:
        assert running.stdout is not None
        try:
            for line in _read_lines(running.stdout, deadline):
                lines.append(line)
                on_line(line)
            running.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as late:
            raise _too_late(words, timeout_s, "\n".join(lines)) from late
    if running.returncode != 0:
        raise _failed(words, running.returncode, "\n".join(lines))


def attach(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> int:
    """Run a program for the user, with our own terminal or pipes, as long as it takes.

    Returns its exit status as a shell would give it: 128 and the number of the signal when one ended it.

    Raises:
        HostError: there is no such program, or it cannot be started.
    """
    words = _log(argv)
    try:
        status = subprocess.run(words, env=None if env is None else dict(env), check=False).returncode
    except OSError as error:
        raise _cannot_start(words[0], error) from error
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def background(
    argv: Sequence[str | Path], *, log_file: Path, env: Mapping[str, str] | None = None, is_proxy: bool = False
) -> Iterator[Running]:
    """Run a program for the length of a `with` block; it is terminated, then killed, at the end.

    The programs that it has started, and that are still in its session, are killed with it. Both its outputs are
    appended to `log_file`. A proxy's program (see `run`) is killed at once. Needs Linux.

    Raises:
        HostError: there is no such program, or it cannot be started.
    """
    words = _log(argv)
    with (
        log_file.open("ab") as output,
        _started(
            words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, is_proxy=is_proxy
        ) as running,
    ):
        try:
            yield running
        finally:
            if running.returncode is None and not is_proxy:
                _terminate(running)


@contextlib.contextmanager
def answering(
    argv: Sequence[str | Path], *, timeout_s: float, env: Mapping[str, str] | None = None
) -> Iterator[list[str]]:
    """Run a program for the length of a `with` block, and yield the lines that it writes before an empty one.

    At the end of the block its standard input ends, and it must end soon.

    Raises:
        HostError: there is no such program, or it cannot be started.
        ProgramError: it did not answer in time, or ended without an empty line.
    """
    words = _log(argv)
    with _started(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        lines: list[str] = []
        try:
            for line in _read_lines(running.stdout, time.monotonic() + timeout_s):
                if not line:
                    break
                lines.append(line)
            else:
                raise _failed(words, running.wait(), "")
            yield lines
        except TimeoutError as late:
            raise _too_late(words, timeout_s, "") from late
        finally:
            running.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(END_S)


def converse(
    argv: Sequence[str | Path],
    request: bytes,
    *,
    on_line: Callable[[bytes], object],
    on_tick: Callable[[], object],
    tick_s: float = 0.2,
    end_s: float = 300.0,
) -> int:
    """Run a program to its end, however long it takes, and call `on_line` with each line of its standard output.

    Its standard error is ours. If a callback raises, the program's standard output is closed, and it is terminated, so
    that it can clean up.

    Args:
        argv: the program and its arguments.
        request: its standard input.
        on_line: callback for each line, without the newline.
        on_tick: called at least every `tick_s` seconds.
        tick_s: see `on_tick`.
        end_s: seconds after which a terminated program is killed.

    Returns:
        Its exit status; negative for the number of a signal.

    Raises:
        HostError: there is no such program, or it cannot be started.
    """
    words = _log(argv)
    with _started(words, env=None, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError), running.stdin:
                running.stdin.write(request)
            rest = b""
            while True:
                on_tick()
                try:
                    chunk = _read_some(running.stdout.fileno(), time.monotonic() + tick_s)
                except TimeoutError:
                    continue
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    on_line(line)
        except BaseException:
            running.terminate()
            # It must not wait for a reader of what it has to say meanwhile.
            running.stdout.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=end_s)
            raise
        return running.wait()


@contextlib.contextmanager
def _started(
    words: list[str],
    *,
    env: Mapping[str, str] | None,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | None,
    is_proxy: bool = False,
) -> Iterator[Running]:
    """A program in a session of its own; if it has not ended by the end of the block, it is killed."""
    with holding_signals() as release:
        try:
            running = subprocess.Popen(
                words,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        except OSError as error:
            raise _cannot_start(words[0], error) from error
        try:
            release()
            yield running
        finally:
            _end(running, is_proxy=is_proxy)


def _end(running: Running, *, is_proxy: bool) -> None:
    """Kill a program that has not ended, and what is in its session."""
    if running.returncode is None:
        if is_proxy:
            _end_proxy(running)
        # Not waited for yet, so its number is still its own; its session is the process group of that number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    for pipe in (running.stdin, running.stdout, running.stderr):
        if pipe is not None:
            pipe.close()


def _terminate(running: Running) -> None:
    """Ask a program to end, and wait for END_S at most.

    It is not reaped: its number stays its own, and `_started` can kill the rest of its process group.
    """
    os.kill(running.pid, signal.SIGTERM)
    _await_end(running)


def _end_proxy(running: Running) -> None:
    """Kill the program that a proxy such as nsenter(1) runs, and wait until the proxy has ended with it.

    If the proxy ended first, the machine's first process would inherit the program. Some reap it late, or never, as
    `sleep` does in a container, and the end of a PID namespace waits for it.
    """
    listed = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    children = listed.read_text().split() if listed.exists() else []
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    if children:
        _await_end(running)


def _await_end(running: Running) -> None:
    """Wait until a program has ended, for END_S at most, without reaping it."""
    descriptor = os.pidfd_open(running.pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll(END_S * 1000)
    finally:
        os.close(descriptor)


class _TooMuchError(Exception):
    """The program wrote more than it may."""


def _communicate(running: Running, sent: bytes, timeout_s: float, limit_bytes: int) -> tuple[bytes, bytes]:
    """Do as `Popen.communicate`, and hold no more than the limit and one chunk in memory."""
    assert running.stdout is not None
    assert running.stderr is not None
    deadline = time.monotonic() + timeout_s
    written = {running.stdout: bytearray(), running.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in written:
            selector.register(pipe, selectors.EVENT_READ)
        if running.stdin is not None:
            selector.register(running.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            ready = selector.select(left_s) if left_s > 0 else []
            if not ready:
                raise subprocess.TimeoutExpired(running.args, timeout_s, stderr=bytes(written[running.stderr]))
            for key, _ in ready:
                if key.fileobj is running.stdin:
                    sent = _send_some(key.fd, sent)
                    if not sent:
                        selector.unregister(running.stdin)
                        running.stdin.close()
                    continue
                chunk = os.read(key.fd, _CHUNK_BYTES)
                written[key.fileobj].extend(chunk)  # type: ignore[index]
                if not chunk:
                    selector.unregister(key.fileobj)
                if sum(map(len, written.values())) > limit_bytes:
                    raise _TooMuchError
    running.wait(max(0.0, deadline - time.monotonic()))
    return bytes(written[running.stdout]), bytes(written[running.stderr])


def _send_some(descriptor: int, data: bytes) -> bytes:
    """Write as much as a ready pipe takes without blocking, and return the rest; none if nobody reads."""
    try:
        return data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return b""


def _read_lines(pipe: IO[bytes], deadline: float) -> Iterator[str]:
    """The lines that come out of a pipe until its end; TimeoutError when the deadline has passed."""
    rest = b""
    while chunk := _read_some(pipe.fileno(), deadline):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in whole)
    if rest:
        yield rest.decode(errors="replace").rstrip()


def _read_some(descriptor: int, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left_s = deadline - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError
    return os.read(descriptor, _CHUNK_BYTES)


def _log(argv: Sequence[str | Path]) -> list[str]:
    words = [str(word) for word in argv]
    log.debug("+ %s", shlex.join(words))
    return words


def _too_late(words: list[str], timeout_s: float, stderr: str) -> ProgramError:
    return ProgramError(words, f"was stopped after {timeout_s:g} s", returncode=None, stderr=stderr)


def _failed(words: list[str], returncode: int, stderr: str) -> ProgramError:
    end = f"failed with exit status {returncode}" if returncode >= 0 else f"was killed by signal {-returncode}"
    return ProgramError(words, end, returncode=returncode, stderr=stderr)


def _cannot_start(name: str, error: OSError) -> HostError:
    if isinstance(error, FileNotFoundError):
        return HostError(f"cannot run {name}: no such program on this machine")
    return HostError(f"cannot run {name}: {error.strerror}")
