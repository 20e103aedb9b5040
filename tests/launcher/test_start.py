"""The launcher's cold starts and their reasons, with a stand-in for criu."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time

import pytest

ECHO = ("sh", "-c", 'echo "$0 $GREETING"; exit 7')


def assert_cold(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert re.fullmatch(rf"warmstart: cold start: {re.escape(reason)} \(\d+ ms\)\n", done.stderr)
    assert (done.returncode, done.stdout) == (7, "sh hello\n")


def test_starts_cold_where_there_is_no_checkpoint(place):
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "no checkpoint")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"end": None}, "the checkpoint is incomplete"),
        ({"user": "4711"}, f"uid is {os.geteuid()}, the checkpoint was made as 4711"),
        ({"group": "4711"}, f"gid is {os.getegid()}, the checkpoint was made as 4711"),
        ({"groups": "4711"}, "the supplementary groups differ from the checkpoint's"),
        ({"file": "6 pages-1.img"}, "pages-1.img of the checkpoint has 5 bytes instead of 6"),
        ({"file": "6 pages-2.img"}, "pages-2.img of the checkpoint: No such file or directory"),
        ({"cpu": "warp-drive"}, "this processor has no warp-drive, the checkpoint's had"),
        ({"listen": "tcp5 80 1 1"}, "line 12 of the manifest is invalid"),
        ({"pid": "many"}, "line 8 of the manifest is invalid"),
    ],
)
def test_starts_cold_where_the_checkpoint_does_not_fit(place, changes, reason):
    place.write_manifest(ECHO, **changes)
    place.write_criu("echo must not run; exit 0")
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), reason)


def test_starts_cold_where_it_is_told_to(place):
    place.write_manifest(ECHO)
    assert_cold(place.start(*ECHO, env={"GREETING": "hello", "WARMSTART": "off"}), "WARMSTART is off")


@pytest.mark.parametrize("command", [ECHO[:2], [*ECHO, "more"], ["true"], [*ECHO[:2], "echo"]])
def test_starts_another_command_cold(place, command):
    place.write_manifest(command)
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "the command differs from the checkpoint's")


def test_compares_commands_of_any_bytes(place):
    place.write_manifest(["sh", "-c", "exit 3\\x0a# \\x5c\\xc3\\xa4"])
    place.write_criu("exit 1")
    done = place.start("sh", "-c", "exit 3\n# \\ä")
    assert done.returncode == 3
    assert "CRIU failed without an error message" in done.stderr


def test_gives_crius_first_error_as_the_reason(place):
    place.write_manifest(ECHO)
    place.write_criu(
        'echo "(0.1) 1: Error (criu/a.c:1): it hurts" >"$7"; echo "Error (criu/b.c:1): FAILED" >"$7"; exit 1'
    )
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "CRIU: it hurts")


def test_starts_cold_where_criu_cannot_be_run(place):
    place.write_manifest(ECHO)
    reason = f"CRIU: {place.directory}/criu: No such file or directory"
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), reason)


@pytest.mark.parametrize(("network", "address"), [("tcp4", "127.0.0.1"), ("tcp6", "::1"), ("tcp46", "127.0.0.1")])
def test_who_connects_during_a_restore_waits(place, tmp_path, network, address):
    port, fifo = find_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    place.write_manifest(ECHO, listen=f"{network} {port} 7 4711")
    place.write_criu(f'echo "$@" >{fifo}; read -r _ <{fifo}; exit 1')
    launcher = subprocess.Popen([place.launcher, "start", "--", *ECHO], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    words = fifo.read_text()
    # CRIU is at work: it has the socket, by the number that it had in the checkpoint, and somebody can connect.
    assert re.search(r"--inherit-fd fd\[\d+\]:socket:\[4711\]", words)
    connection = socket.create_connection((address, port), timeout=5)
    fifo.write_text("go on\n")
    launcher.communicate(timeout=20)
    assert launcher.returncode == 7
    # Nothing of it is left to the application that is started cold.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), timeout=5)
    connection.close()


def test_a_port_that_is_taken_is_left_to_criu(place):
    with socket.create_server(("", 0)) as taken:
        place.write_manifest(ECHO, listen=f"tcp4 {taken.getsockname()[1]} 7 4711")
        place.write_criu('echo "Error (criu/a.c:1): $*" >"$7"; exit 1')
        said = place.start(*ECHO).stderr
    assert "CRIU: restore" in said
    assert "socket" not in said


def find_port() -> int:
    """Return a free port."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def test_criu_is_given_the_containers_environment(place):
    """CRIU gets the complete, unchanged environment as a file that cannot be changed."""
    value = "ä\n" + 5000 * "x"
    place.write_manifest(ECHO)
    place.write_criu(
        """for word; do case $word in fd*:.warmstart/environment) fd=${word#fd[}; fd=${fd%%]*}; esac; done
        sh -c "cat <&$fd | tr '\\0' '|'" >&2
        (echo more >&$fd) 2>/dev/null && echo CHANGED >&2
        exit 1"""
    )
    said = place.start(*ECHO, env={"GREETING": "hello", "LONG": value}).stderr
    assert f"|LONG={value}|" in f"|{said}"
    assert "GREETING=hello|" in said
    assert "CHANGED" not in said


def test_does_not_wait_for_a_criu_that_hangs_after_an_error(place):
    place.write_manifest(ECHO)
    place.write_criu('echo "Error (criu/a.c:1): it hurts" >"$7"; exec sleep 60')
    start = time.monotonic()
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "CRIU: it hurts")
    assert time.monotonic() - start < 4


def test_does_not_wait_for_a_criu_that_hangs_in_silence(place):
    place.write_manifest(ECHO)
    place.write_criu("exec sleep 60")
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "CRIU timed out")


def test_nothing_is_left_of_a_failed_restore(place):
    place.write_manifest(ECHO)
    marker = f"{4000 + os.getpid() % 1000}.{os.getpid()}"
    place.write_criu(f'sleep {marker} & (sleep {marker} &) ; echo "Error (criu/a.c:1): it hurts" >"$7"; exit 1')
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "CRIU: it hurts")
    assert subprocess.run(["pgrep", "-f", f"sleep {marker}"], stdout=subprocess.DEVNULL, check=False).returncode == 1


def test_starts_cold_where_the_restored_application_is_gone(place):
    place.write_manifest(ECHO)
    place.write_criu("exit 0")
    done = place.start(*ECHO, env={"GREETING": "hello"})
    said = done.stderr.splitlines()
    assert re.fullmatch(r"warmstart: restored in \d+ ms", said[0])
    reason = "the restored application was killed by signal 9 (Killed) right after the restore"
    assert said[1].startswith(f"warmstart: cold start: {reason}")
    assert done.returncode == 7


def test_a_signal_to_stop_ends_the_restore(place):
    place.write_manifest(ECHO)
    place.write_criu("exec sleep 60")
    launcher = subprocess.Popen([place.launcher, "start", "--", *ECHO], stdout=subprocess.PIPE)
    time.sleep(0.5)
    launcher.terminate()
    output, _ = launcher.communicate(timeout=4)
    assert (launcher.returncode, output) == (-signal.SIGTERM, b"")


def test_puts_back_files_and_takes_them_away_again(place, tmp_path):
    new, old, made = tmp_path / "new" / "file", tmp_path / "old", place.directory / "seed" / str(tmp_path)[1:]
    (made / "new").mkdir(parents=True)
    (made / "new" / "file").write_text("kept")
    (made / "new" / "file").chmod(0o640)
    (made / "link").symlink_to("new")
    (made / "old").write_text("kept")
    old.write_text("there before")
    place.write_manifest(["cat", str(new)])
    place.write_criu(f'cat {tmp_path}/link/file {old}; stat -c %a {new}; echo "Error (criu/a.c:1): no" >"$7"; exit 1')
    done = place.start("cat", str(new))
    assert done.stdout == "keptthere before640\n"
    assert done.returncode == 1  # from cat: the cold start has the file no more
    assert list(tmp_path.iterdir()) == [old]


def test_signals_and_files_of_the_command_are_as_without_us(place):
    """No signal stays blocked or ignored, and no descriptor stays open."""
    place.write_manifest(["true"])
    script = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd"
    direct = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert place.start("sh", "-c", script).stdout == direct.stdout


def test_a_closed_log_does_no_harm(place):
    read, write = os.pipe()
    os.close(read)
    argv = [place.launcher, "start", "--", "sh", "-c", "exit 5"]
    assert subprocess.run(argv, stderr=write, check=False).returncode == 5
    os.close(write)


@pytest.mark.parametrize(("command", "status"), [("/nowhere/program", 127), ("/dev/null", 126)])
def test_a_command_that_cannot_be_run_ends_as_in_a_shell(place, command, status):
    done = place.start(command)
    assert done.returncode == status
    assert f"warmstart: {command}: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["start"],
        ["start", "true"],
        ["start", "--"],
        ["start", "--user", "0", "--", "true"],
        ["start", "--clocks", "mine", "--", "true"],
        ["exec", "--clocks", "node", "--", "true"],
        ["exec"],
        ["dump", "x"],
        ["build"],
    ],
)
def test_says_how_it_is_used(place, arguments):
    done = subprocess.run([place.launcher, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert done.stderr.startswith("usage: launcher start [--clocks node] -- COMMAND")


def test_a_build_has_to_be_pid_1(place):
    done = subprocess.run([place.launcher, "build", "--", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr == "warmstart: build must be the first process of its container\n"


def test_a_command_in_a_build_takes_a_build(place):
    done = subprocess.run([place.launcher, "exec", "--", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "(written by build)" in done.stderr


def test_a_dump_takes_a_build(place):
    done = subprocess.run([place.launcher, "dump"], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "manifest (written by build): No such file or directory" in done.stderr
