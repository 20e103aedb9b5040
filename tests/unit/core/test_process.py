"""Programs: what goes in, what comes out, and that they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from warmstart.core import process
from warmstart.core.errors import HostError

LIMIT_S = 60.0
PYTHON = [sys.executable, "-c"]
# Tells a file its process number and that of a child it leaves sleeping with all its pipes, and sleeps itself.
WITH_CHILD = 'sleep 1000 & echo $$ $! > "$0.new"; mv "$0.new" "$0"; echo started; echo why >&2; wait'


def with_child(path: Path) -> list[str]:
    return ["sh", "-c", WITH_CHILD, str(path)]


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is so soon: one whose parent has died is reaped by somebody else."""
    for _ in range(1200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def read_pids(path: Path) -> list[int]:
    for _ in range(1200):
        if path.exists():
            return [int(word) for word in path.read_text().split()]
        time.sleep(0.05)
    raise AssertionError("the program did not start")


# run


def test_both_outputs_and_the_status_of_a_program_are_kept():
    done = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=LIMIT_S, check=False)
    assert done == process.Finished(3, "out\n", "err\n")


def test_what_is_not_utf_8_is_replaced():
    assert process.run(["printf", r"a\377b"], timeout_s=LIMIT_S).stdout == "a\ufffdb"


def test_a_missing_program_is_the_hosts_fault():
    with pytest.raises(HostError, match=r"^cannot run no-such-program-here: no such program on this machine$"):
        process.run(["no-such-program-here", "x"], timeout_s=LIMIT_S)


@pytest.mark.parametrize(
    ("mode", "content", "why"), [(0o644, "#!/bin/sh\n", "Permission denied"), (0o755, "\x01\x02", "Exec format error")]
)
def test_a_program_that_cannot_be_started_is_the_hosts_fault(tmp_path, mode, content, why):
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(mode)
    for start in (
        lambda: process.run([program], timeout_s=LIMIT_S),
        lambda: process.stream([program], on_line=print, timeout_s=LIMIT_S),
        lambda: process.attach([program]),
        lambda: process.background([program], log_file=tmp_path / "log").__enter__(),
    ):
        with pytest.raises(HostError, match=f"^cannot run .*program: {why}"):
            start()


def test_a_failure_says_which_command_and_keeps_all_of_its_errors():
    script = "seq 100000 >&2; exit 7"
    with pytest.raises(process.ProgramError, match=r"^sh failed with exit status 7: sh -c 'seq 100000") as caught:
        process.run(["sh", "-c", script], timeout_s=LIMIT_S)
    assert caught.value.returncode == 7
    assert caught.value.stderr == "".join(f"{n}\n" for n in range(1, 100001))
    assert caught.value.details == tuple(str(n) for n in range(99981, 100001))


def test_a_failure_is_not_raised_where_it_is_expected():
    assert process.run(["false"], timeout_s=LIMIT_S, check=False).returncode == 1


def test_a_signal_is_told_from_a_status():
    with pytest.raises(process.ProgramError, match=r"^sh was killed by signal 9") as caught:
        process.run(["sh", "-c", "kill -9 $$"], timeout_s=LIMIT_S)
    assert caught.value.returncode == -9


def test_a_program_that_takes_too_long_is_killed_with_its_children_and_its_errors_are_kept(tmp_path):
    # The child has the pipes, too: a limit that waited for their end would not be one.
    with pytest.raises(process.ProgramError, match=r"^sh was stopped after 5 s") as caught:
        process.run(with_child(tmp_path / "pids"), timeout_s=5)
    assert caught.value.returncode is None
    assert caught.value.stderr == "why\n"
    assert [has_ended(pid) for pid in read_pids(tmp_path / "pids")] == [True, True]


def test_the_input_is_what_was_given_and_empty_otherwise():
    assert process.run(["cat"], timeout_s=LIMIT_S, stdin="ä\n").stdout == "ä\n"
    assert process.run(["cat"], timeout_s=LIMIT_S).stdout == ""


def test_a_program_that_does_not_read_its_input_is_no_error():
    assert process.run(["true"], timeout_s=LIMIT_S, stdin="x" * 1_000_000).returncode == 0


def test_the_environment_is_the_given_one_alone():
    assert process.run(["/usr/bin/env"], timeout_s=LIMIT_S, env={"A": "b"}).stdout == "A=b\n"


def test_the_environment_is_ours_otherwise(monkeypatch):
    monkeypatch.setenv("WARMSTART_TEST", "here")
    assert "WARMSTART_TEST=here\n" in process.run(["env"], timeout_s=LIMIT_S).stdout


def test_a_program_is_in_a_session_of_its_own():
    tell = "import os; print(os.getpid(), os.getsid(0), os.getpgid(0))"
    pid, session, group = process.run([*PYTHON, tell], timeout_s=LIMIT_S).stdout.split()
    assert pid == session == group


def test_an_interrupted_run_leaves_no_program(tmp_path):
    interrupt_once(tmp_path / "pids", lambda: process.run(with_child(tmp_path / "pids"), timeout_s=LIMIT_S))


# stream


def test_each_line_of_either_output_is_told_when_it_comes(tmp_path):
    heard: list[str] = []
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def hear(line: str) -> None:
        heard.append(line)
        # The program goes on only when its first line has been heard.
        if line == "one":
            gate.write_text("go")

    script = f"echo one; read -r go < {gate}; echo two >&2; printf '  three \\r\\nlast'"
    process.stream(["sh", "-c", script], on_line=hear, timeout_s=LIMIT_S)
    assert heard == ["one", "two", "  three", "last"]


def test_a_streamed_failure_has_all_lines():
    with pytest.raises(process.ProgramError, match=r"^sh failed with exit status 2") as caught:
        process.stream(["sh", "-c", "echo a; echo b >&2; exit 2"], on_line=lambda _: None, timeout_s=LIMIT_S)
    assert (caught.value.returncode, caught.value.stderr) == (2, "a\nb")


def test_a_missing_streamed_program_is_the_hosts_fault():
    with pytest.raises(HostError, match="no-such-program-here"):
        process.stream(["no-such-program-here"], on_line=lambda _: None, timeout_s=LIMIT_S)


def test_a_stream_that_takes_too_long_is_killed_with_its_children(tmp_path):
    heard: list[str] = []
    with pytest.raises(process.ProgramError, match=r"^sh was stopped after 5 s") as caught:
        process.stream(with_child(tmp_path / "pids"), on_line=heard.append, timeout_s=5)
    assert caught.value.returncode is None
    assert caught.value.stderr == "started\nwhy"
    assert heard == ["started", "why"]
    assert [has_ended(pid) for pid in read_pids(tmp_path / "pids")] == [True, True]


def test_a_stream_that_never_pauses_has_a_limit_too():
    with pytest.raises(process.ProgramError, match=r"^yes was stopped"):
        process.stream(["yes"], on_line=lambda _: None, timeout_s=0.3)


def test_a_stream_that_closes_its_outputs_and_goes_on_has_a_limit_too():
    with pytest.raises(process.ProgramError, match=r"^sh was stopped"):
        process.stream(["sh", "-c", "exec sleep 1000 >&- 2>&-"], on_line=lambda _: None, timeout_s=1.5)


def test_an_error_of_the_listener_ends_the_program(tmp_path):
    with pytest.raises(ZeroDivisionError):
        process.stream(with_child(tmp_path / "pids"), on_line=lambda _: 1 / 0, timeout_s=LIMIT_S)
    assert [has_ended(pid) for pid in read_pids(tmp_path / "pids")] == [True, True]


def test_an_interrupted_stream_leaves_no_program(tmp_path):
    path = tmp_path / "pids"
    interrupt_once(path, lambda: process.stream(with_child(path), on_line=lambda _: None, timeout_s=LIMIT_S))


def test_an_interruption_of_the_start_leaves_no_program(tmp_path, monkeypatch):
    path, start = tmp_path / "pids", subprocess.Popen

    def start_and_strike(*args, **options):
        running = start(*args, **options)
        read_pids(path)
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # the handler runs now, if it was not held back
        return running

    monkeypatch.setattr("warmstart.core.process.subprocess.Popen", start_and_strike)
    with pytest.raises(KeyboardInterrupt):
        process.stream(with_child(path), on_line=lambda _: None, timeout_s=LIMIT_S)
    assert [has_ended(pid) for pid in read_pids(path)] == [True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# attach


def test_an_attached_program_has_our_files_and_session(tmp_path):
    tell = "import os, sys; print(sys.stdin.read(), os.getsid(0))"
    script = f"""
import sys
from warmstart.core import process
sys.exit(process.attach([sys.executable, "-c", {tell!r}]))
"""
    done = process.run([*PYTHON, script], timeout_s=LIMIT_S, stdin="typed")
    said, session = done.stdout.split()
    assert said == "typed"
    # That of the program in between, which run() gave a session of its own.
    assert int(session) != os.getsid(0)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143)])
def test_an_attached_program_ends_with_its_status(script, status):
    assert process.attach(["sh", "-c", script]) == status


def test_a_missing_attached_program_is_the_hosts_fault():
    with pytest.raises(HostError, match="no-such-program-here"):
        process.attach(["no-such-program-here"])


# background


@pytest.mark.linux
def test_a_background_program_runs_for_the_length_of_a_block(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    with process.background(with_child(tmp_path / "pids"), log_file=log) as running:
        leader, child = read_pids(tmp_path / "pids")
        assert running.poll() is None
        assert running.pid == leader == os.getsid(leader)
        # The program writes its numbers before its lines.
        deadline = time.monotonic() + LIMIT_S
        while len(log.read_text().split()) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert running.returncode == -signal.SIGTERM
    assert [has_ended(pid) for pid in (leader, child)] == [True, True]
    assert sorted(log.read_text().split()) == ["before", "started", "why"]


@pytest.mark.linux
def test_a_background_program_that_ended_does_not_leave_its_children(tmp_path):
    script = 'sleep 1000 & echo $! > "$0.new"; mv "$0.new" "$0"; exit 3'
    with process.background(["sh", "-c", script, str(tmp_path / "pid")], log_file=tmp_path / "log") as running:
        (child,) = read_pids(tmp_path / "pid")
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    assert running.returncode == 3
    assert has_ended(child)


@pytest.mark.linux
def test_a_background_program_is_asked_to_end_before_it_is_killed(tmp_path):
    log = tmp_path / "log"
    with process.background(
        ["sh", "-c", "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.05; done"], log_file=log
    ):
        wait_for_text(log, "up")
    assert log.read_text() == "up\nbye\n"


@pytest.mark.linux
def test_a_background_program_that_ignores_to_be_asked_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "END_S", 0.2)
    log = tmp_path / "log"
    script = "trap '' TERM; sleep 1000 & echo $! up; while :; do sleep 0.05; done"
    with process.background(["sh", "-c", script], log_file=log) as running:
        wait_for_text(log, "up")
    assert running.returncode == -signal.SIGKILL
    assert has_ended(int(log.read_text().split()[0]))


@pytest.mark.linux
def test_an_error_ends_a_background_program_and_stays_the_error(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        process.background(["sleep", "1000"], log_file=tmp_path / "log") as running,
    ):
        raise ZeroDivisionError
    assert running.returncode == -signal.SIGTERM


def test_a_background_program_that_has_ended_by_itself_is_no_error(tmp_path):
    with process.background(["false"], log_file=tmp_path / "log") as running:
        assert running.wait() == 1


def test_a_missing_background_program_is_the_hosts_fault(tmp_path):
    with (
        pytest.raises(HostError, match="no-such-program-here"),
        process.background(["no-such-program-here"], log_file=tmp_path / "log"),
    ):
        pass


def test_commands_are_logged_as_a_shell_takes_them(caplog):
    caplog.set_level("DEBUG")
    process.run(["echo", "a b", Path("/c")], timeout_s=LIMIT_S)
    assert "+ echo 'a b' /c" in caplog.messages


def wait_for_text(path: Path, text: str) -> None:
    for _ in range(1200):
        if text in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(path.read_text())


def interrupt_once(pids_file: Path, call) -> None:
    """Interrupt the main thread while a call waits for a program that has written `pids_file`."""

    def work() -> None:
        read_pids(pids_file)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    thread.join()
    assert [has_ended(pid) for pid in read_pids(pids_file)] == [True, True]


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_program_that_writes_more_than_the_limit_is_stopped(stream):
    with pytest.raises(process.ProgramError, match="sh was stopped after it wrote more than 5000 bytes"):
        process.run(["sh", "-c", f"exec yes >&{stream}"], timeout_s=LIMIT_S, limit_bytes=5000)


def test_output_within_the_limit_is_whole():
    text = "a line\n" * 20_000
    done = process.run(["tee", "/dev/stderr"], timeout_s=LIMIT_S, stdin=text, limit_bytes=2 * len(text))
    assert (done.stdout, done.stderr) == (text, text)


def test_a_limit_on_output_keeps_the_limit_in_time_and_bears_a_closed_input():
    with pytest.raises(process.ProgramError, match=r"was stopped after 0\.1 s"):
        process.run(["sleep", "1000"], timeout_s=0.1, limit_bytes=10)
    done = process.run(["sh", "-c", "exec <&-; echo x"], timeout_s=LIMIT_S, stdin="y" * 1_000_000, limit_bytes=10)
    assert done.stdout == "x\n"


# converse


def test_a_program_answers_line_by_line_and_its_status_is_returned():
    lines: list[bytes] = []
    request = b"x" * 200_000
    program = "import sys; print(len(sys.stdin.buffer.read())); print('a\\nb', end=''); sys.exit(3)"
    status = process.converse([*PYTHON, program], request, on_line=lines.append, on_tick=lambda: None)
    assert (status, lines) == (3, [b"200000", b"a"])


def test_a_program_that_does_not_read_its_request_is_no_error():
    status = process.converse(["true"], b"x" * 1_000_000, on_line=print, on_tick=lambda: None)
    assert status == 0


def test_a_program_that_is_killed_has_a_negative_status():
    status = process.converse(["sh", "-c", "kill -9 $$"], b"", on_line=print, on_tick=lambda: None)
    assert status == -signal.SIGKILL


class StopError(Exception):
    pass


def test_a_program_is_terminated_and_awaited_when_a_callback_raises(tmp_path):
    program = f"""
import pathlib, signal, sys, time
def clean(*_):
    time.sleep(0.3)
    pathlib.Path({str(tmp_path / "clean")!r}).touch()
    sys.exit()
signal.signal(signal.SIGTERM, clean)
print("ready", flush=True)
time.sleep(1000)
"""
    begun: list[bytes] = []

    def stop() -> None:
        if begun:
            raise StopError

    with pytest.raises(StopError):
        process.converse([*PYTHON, program], b"", on_line=begun.append, on_tick=stop, tick_s=0.05)
    assert (tmp_path / "clean").exists()


def test_a_program_that_still_has_much_to_say_is_not_kept_waiting(tmp_path):
    program = f"""
import pathlib, signal, sys, time
def clean(*_):
    try:
        print("x" * 1_000_000, flush=True)
    except BrokenPipeError:
        pathlib.Path({str(tmp_path / "clean")!r}).touch()
    sys.exit()
signal.signal(signal.SIGTERM, clean)
print("ready", flush=True)
time.sleep(1000)
"""

    def stop(_: bytes) -> None:
        raise StopError

    with pytest.raises(StopError):
        process.converse([*PYTHON, program], b"", on_line=stop, on_tick=lambda: None, end_s=20)
    assert (tmp_path / "clean").exists()


def test_a_program_that_does_not_end_in_time_is_killed(tmp_path):
    program = "trap '' TERM; echo $$; while :; do sleep 0.1; done"
    begun: list[bytes] = []

    def stop() -> None:
        if begun:
            raise StopError

    with pytest.raises(StopError):
        process.converse(["sh", "-c", program], b"", on_line=begun.append, on_tick=stop, tick_s=0.05, end_s=0.2)
    assert has_ended(int(begun[0]))


def test_an_answer_is_read_while_the_program_waits_for_the_end_of_its_input(tmp_path):
    script = f"echo one; echo two; echo; cat; touch {tmp_path}/ended"
    with process.answering(["sh", "-c", script], timeout_s=LIMIT_S) as lines:
        assert lines == ["one", "two"]
        assert not (tmp_path / "ended").exists()
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("script", "limit_s", "end"),
    [("echo one; exit 3", LIMIT_S, "exit status 3"), ("exec sleep 60", 0.3, "stopped after")],
)
def test_a_program_that_does_not_answer_is_an_error(monkeypatch, script, limit_s, end):
    monkeypatch.setattr(process, "END_S", 0.2)
    with (
        pytest.raises(process.ProgramError, match=end),
        process.answering(["sh", "-c", script], timeout_s=limit_s),
    ):
        pass
