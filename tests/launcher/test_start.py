"""The launcher's cold starts and their reasons, with a stand-in for criu."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from launcher.conftest import PAGES_BYTES

from warmstart.image.selfrestore.manifest_lines import describe_steps, describe_variables
from warmstart.image.selfrestore.pack import RESTORED, STEP_FAILED
from warmstart.recipe.model import Exec, HttpGet, OnDifference, Step

WAIT_S = 60
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
        ({"file": "6 pages-1.img"}, f"pages-1.img of the checkpoint has {PAGES_BYTES} bytes instead of 6"),
        ({"file": "6 pages-2.img"}, "pages-2.img of the checkpoint: No such file or directory"),
        ({"cpu": "warp-drive"}, "this processor has no warp-drive, the checkpoint's had"),
        (
            {"expires": "1767225600"},
            "the image expired at 2026-01-01T00:00:00Z: it is older than its maxAge",
        ),
        ({"listen": "tcp5 80 1 1"}, "line 12 of the manifest is invalid"),
        ({"locked": "relative"}, "line 16 of the manifest is invalid"),
        ({"late": ""}, "line 12 of the manifest is invalid"),
        ({"pid": "many"}, "line 8 of the manifest is invalid"),
    ],
)
def test_starts_cold_where_the_checkpoint_does_not_fit(place, changes, reason):
    place.write_manifest(ECHO, **changes)
    place.write_criu("echo must not run; exit 0")
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), reason)


def test_restores_until_the_image_expires(place):
    place.write_manifest(ECHO, expires=str(int(time.time()) + 3600))
    place.write_criu("echo 'Error (asked): yes' >&2; exit 1")
    assert "expired" not in place.start(*ECHO, env={"GREETING": "hello"}).stderr
    # The last second of the year 9999, and the one after it.
    place.write_manifest(ECHO, expires="253402300799")
    assert "manifest" not in place.start(*ECHO, env={"GREETING": "hello"}).stderr
    place.write_manifest(ECHO, expires="253402300800")
    assert "of the manifest is invalid" in place.start(*ECHO, env={"GREETING": "hello"}).stderr


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
    connection = socket.create_connection((address, port), timeout=WAIT_S)
    fifo.write_text("go on\n")
    launcher.communicate(timeout=WAIT_S)
    assert launcher.returncode == 7
    # Nothing of it is left to the application that is started cold.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port), timeout=WAIT_S)
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
    place.write_criu('echo "Error (criu/a.c:1): it hurts" >"$7"; exec sleep 600')
    start = time.monotonic()
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), "CRIU: it hurts")
    assert time.monotonic() - start < 60


def test_does_not_wait_for_a_criu_that_hangs_in_silence(place):
    place.write_manifest(ECHO, file=None)
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


SALT = bytes(range(16))
SALTED = {"salt": SALT.hex(), "late": "LATE"}


def freeze(**variables: str) -> str:
    """Return the value of the first line `frozen`, and the other lines."""
    lines = describe_variables(variables, [], OnDifference.COLD, SALT)
    return "\n".join(line for line in lines if line.startswith("frozen ")).removeprefix("frozen ")


FROZEN = {"URL": "of the build", "EMPTY": "", "A B": "ä\n" * 50}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"URL": "of the pod"}, "the variable URL differs from the checkpoint's"),
        ({"URL": ""}, "the variable URL differs from the checkpoint's"),
        ({"EMPTY": "x"}, "the variable EMPTY differs from the checkpoint's"),
        ({"URL": None}, "the variable URL (not set) differs from the checkpoint's"),
        ({"URL": None, "EMPTY": "x"}, "the variables URL (not set), EMPTY differ from the checkpoint's"),
    ],
)
def test_a_frozen_variable_that_differs_starts_cold_with_its_name(place, changes, reason):
    place.write_manifest(ECHO, frozen=freeze(**FROZEN), **SALTED)
    place.write_criu("echo must not run; exit 0")
    env = {"GREETING": "hello", "LATE": "something", **FROZEN, **changes}
    assert_cold(place.start(*ECHO, env={name: value for name, value in env.items() if value is not None}), reason)


def test_the_same_variables_are_restored_and_new_ones_named(place):
    place.write_manifest(ECHO, frozen=freeze(**FROZEN), **SALTED)
    place.write_criu("exit 0")
    done = place.start(*ECHO, env={"GREETING": "hello", "LATE": "x", "DB_SERVICE_HOST": "10.0.0.1", **FROZEN})
    said = done.stderr.splitlines()
    assert re.fullmatch(r"warmstart: restored in \d+ ms", said[0])
    assert said[1].endswith("because the build did not have it: GREETING")
    assert "hello" not in done.stderr


@pytest.mark.parametrize(
    ("recipe", "setting", "cold"),
    [
        ("warn", None, False),
        ("warn", "cold", True),
        ("cold", "warn", False),
        ("cold", "cold", True),
        ("cold", "no idea", True),
    ],
)
def test_a_difference_is_a_warning_if_the_recipe_or_the_pod_says_so(place, recipe, setting, cold):
    place.write_manifest(ECHO, frozen=freeze(**FROZEN), difference=recipe, **SALTED)
    place.write_criu("exit 0")
    env = {"URL": "other", "EMPTY": "", **({} if setting is None else {"WARMSTART_ON_DIFFERENCE": setting})}
    said = place.start(*ECHO, env={**FROZEN, **env}).stderr
    differs = "the variable URL differs from the checkpoint's"
    if cold:
        assert f"warmstart: cold start: {differs}" in said
        assert ("WARMSTART_ON_DIFFERENCE must be cold or warn" in said) == (setting == "no idea")
    else:
        assert f"warmstart: warning: {differs}, and the restored application does not see it\n" in said
    assert "other" not in said


# No process has it, so no signal can hit one.
NOBODY = str(2**31 - 1)


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """Serve this status on a free port, and collect the requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(f"{self.requestline} {self.headers['Host']} {self.headers['X-Key']}")
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, requests
        server.shutdown()
        thread.join()


def describe(*steps: Step) -> str:
    """Return the value of the first line `step`, and the other lines."""
    return "\n".join(describe_steps(steps, 4711)).removeprefix("step ")


def run_steps(place, *steps: Step) -> subprocess.CompletedProcess[str]:
    """Restore an application that is gone, but a child of which is there."""
    place.write_manifest(ECHO, step=describe(*steps), pid=NOBODY)
    place.write_criu(f"{CHILD}exit 0")
    return start_with_child(place)


# A child of the application, which ends when the launcher has said how the restore went.
CHILD = 'until [ -e "${OVER:?}" ]; do sleep 0.02; done &\n'


def start_with_child(place, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end, which is that of the child."""
    over = place.directory / "over"
    over.unlink(missing_ok=True)
    argv, full = [place.launcher, "start", "--", *(command or ECHO)], {"PATH": os.environ["PATH"], "OVER": str(over)}
    with subprocess.Popen(
        argv, env={**full, "GREETING": "hello", **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stderr is not None
        said = launcher.stderr.readline()
        over.touch()
        out, said = launcher.stdout.read(), said + launcher.stderr.read()
    return subprocess.CompletedProcess(argv, launcher.returncode, out, said)


def test_steps_are_done_in_order_with_the_pods_environment(place, tmp_path):
    with answering(204) as (port, requests):
        post = HttpGet(port, "/actuator/re fresh", headers=(("X-Key", "of it"),), method="POST")
        script = f'echo "$0 $1 $GREETING" >>{tmp_path}/said'
        first = Step(Exec(("sh", "-c", script, "$(APP_PID)", "two words \\ ä")))
        done = run_steps(place, first, Step(post), Step(Exec(("sh", "-c", f"echo last >>{tmp_path}/said"))))
    assert requests == [f"POST /actuator/re%20fresh HTTP/1.1 localhost:{port} of it"]
    assert (tmp_path / "said").read_text() == "4711 two words \\ ä hello\nlast\n"
    assert re.match(r"warmstart: restored in \d+ ms, after-restore steps in \d+ ms\n", done.stderr)
    assert RESTORED.match(done.stderr.splitlines()[0])


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(Exec(("sh", "-c", "exit 3"))), "exec sh) failed: exit status 3"),
        (Step(Exec(("sh", "-c", "kill -9 $$"))), "exec sh) failed: killed by signal 9 (Killed)"),
        (Step(Exec(("/nowhere/program",))), "exec /nowhere/program) failed: No such file or directory"),
        (Step(Exec(("sh", "-c", "sleep 60 & wait")), timeout_s=0.3), "exec sh) failed: no end after 0.3 s"),
        (Step(HttpGet(1, "/x")), "GET /x) failed: cannot connect to 127.0.0.1 port 1: Connection refused"),
    ],
)
def test_a_step_that_fails_ends_the_container(place, tmp_path, step, reason):
    marker = tmp_path / "must not be made"
    done = run_steps(place, Step(Exec(("true",))), step, Step(Exec(("touch", str(marker)))))
    assert done.returncode == 70
    assert re.fullmatch(
        rf"warmstart: restored in \d+ ms, but after-restore step 2 \({re.escape(reason)}\n", done.stderr
    )
    assert STEP_FAILED.match(done.stderr.strip())
    assert not marker.exists()


@pytest.mark.parametrize(("status", "works"), [(200, True), (302, True), (399, True), (404, False), (500, False)])
def test_the_status_of_an_answer_decides(place, status, works):
    with answering(status) as (port, _):
        done = run_steps(place, Step(HttpGet(port, method="POST")))
    if works:
        assert "after-restore steps in" in done.stderr
    else:
        assert f"(POST /) failed: HTTP status {status}" in done.stderr


def test_a_server_that_says_nothing_or_nonsense_fails_a_step(place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def answer() -> None:
            for text in (b"", b"220 hi\n"):
                with server.accept()[0] as client:
                    client.recv(1000)
                    client.sendall(text)

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        closed, nonsense = run_steps(place, Step(HttpGet(port))), run_steps(place, Step(HttpGet(port)))
        thread.join()
    assert "failed: the connection was closed without an answer" in closed.stderr
    assert "failed: the answer is not HTTP" in nonsense.stderr


INSIDE, OUTSIDE = (f"warmstart-{os.getpid()}-{name}" for name in ("inside", "outside"))
ADDRESSES = {INSIDE: ("10.99.0.1/24", "fd99::1/64"), OUTSIDE: ("10.99.0.2/24", "fd99::2/64")}
CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 9999), 60)
print("connected", flush=True)
connection.sendall(b"hi")
print(connection.recv(100), flush=True)
"""
# Gets the listening socket from CRIU's command line. Serves five clients, or ends when none comes.
SERVER = """
import re, socket, sys
number = next(word for word in sys.argv if word.endswith("socket:[4711]"))
server = socket.socket(fileno=int(re.findall(r"\\d+", number)[0]))
server.settimeout(60)
for _ in range(5):
    client = server.accept()[0]
    client.recv(100)
    client.sendall(b"hello")
    client.close()
"""


def run_ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, timeout=WAIT_S)


@pytest.fixture
def networks() -> Iterator[None]:
    """Make two network namespaces that are connected."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and the program ip")
    try:
        for name in ADDRESSES:
            run_ip("netns", "add", name)
        run_ip("link", "add", "veth0", "netns", INSIDE, "type", "veth", "peer", "name", "veth0", "netns", OUTSIDE)
        for name, addresses in ADDRESSES.items():
            for device in ("lo", "veth0"):
                run_ip("-n", name, "link", "set", device, "up")
            run_ip("-n", name, "addr", "add", addresses[0], "dev", "veth0")
            run_ip("-n", name, "addr", "add", addresses[1], "dev", "veth0", "nodad")
        yield
    finally:
        for name in ADDRESSES:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=WAIT_S)


def run_in(network: str, *command: str | Path) -> subprocess.Popen[str]:
    """Run a program in a network namespace."""
    argv = ["ip", "netns", "exec", network, *command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# Newer kernels let nobody else attach a filter to a socket.
WITHOUT_FILTERS = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.mark.parametrize("before", [(), WITHOUT_FILTERS], ids=["filter", "full-queue"])
@pytest.mark.parametrize("address", ["10.99.0.1", "fd99::1"])
def test_clients_from_outside_wait_for_the_end_of_the_steps(place, tmp_path, networks, address, before):
    fifo, server = tmp_path / "fifo", tmp_path / "server.py"
    os.mkfifo(fifo)
    server.write_text(SERVER)
    step = describe(Step(Exec(("sh", "-c", f"echo begun >{fifo}; read -r _ <{fifo}"))))
    place.write_manifest(ECHO, listen="tcp46 9999 7 4711", step=step, pid=NOBODY)
    place.write_criu(f'{sys.executable} {server} "$@" & exit 0')
    with run_in(INSIDE, *before, place.launcher, "start", "--", *ECHO) as launcher:
        assert fifo.read_text() == "begun\n"
        outside = run_in(OUTSIDE, sys.executable, "-c", CLIENT, address)
        for inside in ("127.0.0.1", "::1"):
            output, errors = run_in(INSIDE, sys.executable, "-c", CLIENT, inside).communicate(timeout=WAIT_S)
            assert output == "connected\nb'hello'\n", errors
        time.sleep(0.5)
        assert outside.poll() is None
        fifo.write_text("go on\n")
        assert outside.communicate(timeout=WAIT_S)[0] == "connected\nb'hello'\n"
        for network in (INSIDE, OUTSIDE):
            output, _ = run_in(network, sys.executable, "-c", CLIENT, address).communicate(timeout=WAIT_S)
            assert output == "connected\nb'hello'\n"
        launcher.communicate(timeout=WAIT_S)


def test_a_signal_to_stop_ends_the_restore(place, tmp_path):
    place.write_manifest(ECHO)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    place.write_criu(f"echo begun >{fifo}; exec sleep 600")
    launcher = subprocess.Popen([place.launcher, "start", "--", *ECHO], stdout=subprocess.PIPE)
    assert fifo.read_text() == "begun\n"
    launcher.terminate()
    output, _ = launcher.communicate(timeout=WAIT_S)
    assert (launcher.returncode, output) == (-signal.SIGTERM, b"")


def test_puts_back_files_and_takes_them_away_again(place, tmp_path):
    new, old, made = tmp_path / "new" / "file", tmp_path / "old", place.directory / "seed" / str(tmp_path)[1:]
    (made / "new").mkdir(parents=True)
    (made / "new" / "file").write_text("kept")
    (made / "new" / "file").chmod(0o640)
    (made / "link").symlink_to("new")
    os.mkfifo(made / "pipe")
    (made / "pipe").chmod(0o620)
    (made / "old").write_text("kept")
    old.write_text("there before")
    place.write_manifest(["cat", str(new)])
    place.write_criu(
        f'cat {tmp_path}/link/file {old}; stat -c %a {new}; stat -c "%F %a" {tmp_path}/pipe;'
        'echo "Error (criu/a.c:1): no" >"$7"; exit 1'
    )
    done = place.start("cat", str(new))
    assert done.stdout == "keptthere before640\nfifo 620\n"
    assert done.returncode == 1  # from cat: the cold start has the file no more
    assert list(tmp_path.iterdir()) == [old]


def test_locked_files_are_open_to_their_owner_during_the_restore(place, tmp_path):
    lock, link = tmp_path / "a lock", tmp_path / "link"
    lock.touch(0o400)
    (tmp_path / "target").touch(0o400)
    link.symlink_to(tmp_path / "target")
    place.write_manifest(ECHO, locked=f"{tmp_path}/a\\x20lock")
    with (place.directory / "manifest").open("r+") as manifest:
        text = manifest.read()
        manifest.seek(0)
        manifest.write(text.replace("end\n", f"locked {link}\nlocked {tmp_path}/missing\nend\n"))
    place.write_criu(f'stat -c %a "{lock}" {tmp_path}/target >&2; echo "Error (criu/a.c:1): no" >"$7"; exit 1')
    assert place.start(*ECHO).stderr.startswith("600\n400\nwarmstart: cold start: CRIU: no")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (lock, tmp_path / "target")] == [0o400, 0o400]


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
        ["pack", "x"],
        ["show", "x"],
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


@pytest.mark.parametrize("mode", ["dump", "pack"])
def test_a_dump_takes_a_build(place, mode):
    done = subprocess.run([place.launcher, mode], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "manifest (written by build): No such file or directory" in done.stderr


# The steps after a restore by a runtime, done by a hook of the pod


def run_hook(place, said: Path, *options: str, step: Step) -> str:
    """Run the hook next to a launcher with these options, the first process of a PID namespace; return its output."""
    program = place.directory / "launcher"
    shutil.copy(place.launcher, program)
    place.write_manifest(ECHO, step=describe(step), pid=NOBODY)
    place.write_criu(f"{program} steps 2>{said}; echo status $? >>{said}; exit 1")
    start = [program, "start", *options, "--", *ECHO]
    command = ["unshare", "--pid", "--fork", "--mount-proc", *map(str, start)]
    subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    return said.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
@pytest.mark.parametrize(
    ("options", "script", "done", "said"),
    [
        (["--clocks", "node"], "echo >>{marker}", True, r"warmstart: after-restore steps in \d+ ms\nstatus 0\n"),
        (
            ["--clocks", "node"],
            "echo >>{marker}; exit 3",
            True,
            r"warmstart: after-restore step 1 \(exec sh\) failed: exit status 3\nstatus 70\n",
        ),
        # The launcher that restores the application does them itself.
        ([], "echo >>{marker}", False, r"status 0\n"),
    ],
)
def test_a_hook_does_the_steps_only_if_a_runtime_has_restored(place, tmp_path, options, script, done, said):
    marker = tmp_path / "marker"
    step = Step(Exec(("sh", "-c", script.format(marker=marker))))
    assert re.fullmatch(said, run_hook(place, tmp_path / "said", *options, step=step))
    assert marker.exists() == done


def test_a_hook_does_nothing_after_a_cold_start(place):
    done = subprocess.run([place.launcher, "steps"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert subprocess.run([place.launcher, "steps", "--"], capture_output=True, check=False).returncode == 64


def restore_with_hooks(place, pid: int, script: str, command: tuple[str, ...] = ECHO, **env: str):
    """Restore an application that is gone, but a child of which is there, with a process that has hooks."""
    (place.directory / "hooks").mkdir()
    os.mkfifo(place.directory / "hooks/reply")
    place.write_manifest(command, hooks=f"{WAIT_S * 1000} {pid}", pid=NOBODY)
    reply = f"reply() {{ printf '%s\\n' \"$1\" >{place.directory}/hooks/reply; }}"
    place.write_criu(f"{reply}\n{script}\n{CHILD}exit 0")
    return start_with_child(place, *command, **env)


def test_hooks_after_a_restore_are_awaited(place):
    answer = '{"pid": 1, "event": "restored", "seconds": 0.3}'
    done = restore_with_hooks(place, 1, f"(reply 'no answer'; sleep 0.3; reply '{answer}') &")
    assert RESTORED.match(done.stderr.splitlines()[0]), done.stderr


def test_a_late_failure_after_a_restore_is_awaited(place):
    """What the launcher measured tells nothing: the answer's delay begins before the launcher waits for it."""
    answer = '{"pid": 1, "event": "failed", "phase": "afterRestore", "error": "late"}'
    done = restore_with_hooks(place, 1, f"(reply 'no answer'; sleep 0.3; reply '{answer}') &")
    assert_cold(done, "after-restore hook of process 1 failed: late")


def test_a_process_that_has_ended_need_not_answer(place):
    found = RESTORED.match(restore_with_hooks(place, int(NOBODY), "").stderr.splitlines()[0])
    assert found
    assert int(found["hooks"]) < WAIT_S * 1000


def test_a_hook_that_fails_after_a_restore_leads_to_a_cold_start(place):
    answer = '{"pid": 1, "event": "failed", "phase": "afterRestore", "error": "x.Y: no\\nline"}'
    done = restore_with_hooks(place, 1, f"reply '{answer}' &")
    assert_cold(done, "after-restore hook of process 1 failed: x.Y: no\\x0aline")


def test_without_the_fifo_of_the_hooks_the_start_is_cold(place):
    place.write_manifest(ECHO, hooks="3000 1")
    reason = f"cannot open {place.directory}/hooks/reply: No such file or directory"
    assert_cold(place.start(*ECHO, env={"GREETING": "hello"}), reason)


def test_a_cold_start_has_the_modules_of_the_agents(place):
    hooks = place.directory / "hooks"
    for name in ("python/sitecustomize.py", "node/hooks.cjs", "agent.jar", "java-asks"):
        (hooks / name).parent.mkdir(parents=True, exist_ok=True)
        (hooks / name).touch()
    names = ("WARMSTART_HOOKS", "PYTHONPATH", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS")
    command = ("sh", "-c", "; ".join(f'echo "${name}"' for name in names))
    java = f"-Xbootclasspath/a:{hooks}/agent.jar -Dorg.crac.Core.Compat=warmstart.crac"
    expected = [str(hooks), f"{hooks}/python", f"--require {hooks}/node/hooks.cjs", java]
    assert place.start(*command).stdout.splitlines() == expected
    own = {"PYTHONPATH": "/opt", "NODE_OPTIONS": "--no-warnings", "JAVA_TOOL_OPTIONS": "-Xmx1g"}
    expected = [str(hooks), f"{hooks}/python:/opt", f"--no-warnings {expected[2]}", f"-Xmx1g {java}"]
    assert place.start(*command, env=own).stdout.splitlines() == expected
    (hooks / "java-asks").unlink()
    assert place.start(*command, env=own).stdout.splitlines()[3] == "-Xmx1g", "a Java agent slows a cold start down"


def test_a_cold_start_without_agents_has_the_environment_of_the_pod(place):
    assert place.start("sh", "-c", 'echo "$WARMSTART_HOOKS$PYTHONPATH$NODE_OPTIONS"').stdout == "\n"


def test_a_cold_start_removes_what_the_recipe_names(place, tmp_path):
    lock, kept, directory = tmp_path / "a lock", tmp_path / "kept", tmp_path / "directory"
    for path in (lock, kept):
        path.touch()
    (directory / "inner").mkdir(parents=True)
    (directory / "link").symlink_to(kept)
    names = [str(lock).replace(" ", "\\x20"), directory, tmp_path / "missing"]
    (place.directory / "remove").write_text("".join(f"{name}\n" for name in names))
    done = place.start("true", env={"WARMSTART": "off"})
    assert (done.returncode, [path.name for path in tmp_path.iterdir() if path != place.directory]) == (0, ["kept"])


def test_without_the_capabilities_of_the_restore_the_start_is_cold(place):
    place.write_manifest(ECHO, needs=str(1 << 62))
    done = place.start(*ECHO, env={"GREETING": "hello"})
    assert_cold(done, "the container lacks capabilities that the restore needs: capabilities")
