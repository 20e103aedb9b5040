"""Python's hooks, in every Python of this machine, and in those of $WARMSTART_PYTHONS, separated by colons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.hooks import SOURCES, TIMEOUT_S, Hooks, await_closed

pytestmark = pytest.mark.linux

PYTHONS = sorted(
    {
        Path(sys.executable),
        *Path.home().glob(".pyenv/versions/3.[89].*/bin/python3"),
        *Path.home().glob(".pyenv/versions/3.1[0-9].*/bin/python3"),
        *Path("/usr/bin").glob("python3.1?"),
        *map(Path, filter(None, os.environ.get("WARMSTART_PYTHONS", "").split(":"))),
    }
)

WAIT = "\nimport time\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)\n"
"""The end of a program that says that it is ready, and runs until it is killed."""


@pytest.fixture
def start(hooks):
    """Start a program in Python, as a build does."""

    def start_one(code: str, *options: str, python: Path = Path(sys.executable), **environment: str):
        path = f"{hooks.directory / 'python'}:{environment.pop('PYTHONPATH', '')}"
        return hooks.start([python, *options, "-c", code], {"PYTHONPATH": path, **environment})

    return start_one


def await_ready(hooks: Hooks, program: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait until the program has registered its callbacks, and return the event of its agent."""
    (registered,) = hooks.events(1)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return registered


def output(program: subprocess.Popen[str]) -> list[str]:
    """Wait for the program's end, and return the lines of its output."""
    out, errors = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == 0, errors
    return out.splitlines()


LIFE_CYCLE = """
import asyncio, os, random, threading
from snapshot_restore_py import register_after_restore, register_before_snapshot

@register_before_snapshot
def first():
    print("before 1", flush=True)

@register_before_snapshot
async def second():
    print("before 2 in", threading.current_thread().name, flush=True)

async def after(text, end):
    print("after", text, asyncio.get_running_loop() is loop, flush=True)

async def main():
    global loop
    loop = asyncio.get_running_loop()
    register_after_restore(after, "restored", end=True)
    print("ready", flush=True)
    while not os.path.exists(os.environ["END"]):
        await asyncio.sleep(0.01)
    print(threading.active_count(), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_callbacks_run_in_their_order_and_coroutines_in_the_programs_loop(hooks, start, tmp_path, python):
    program = start(LIFE_CYCLE, "-W", "error", python=python, END=str(tmp_path / "end"))
    registered = await_ready(hooks, program)
    version = subprocess.check_output([python, "-c", "import platform; print(platform.python_version())"], text=True)
    assert registered == {"pid": program.pid, "event": "registered", "runtime": f"python {version.strip()}"}
    (answer,) = hooks.request_checkpoint()
    assert (answer["pid"], answer["event"]) == (program.pid, "checkpoint"), answer
    hooks.move_elsewhere(program.pid)
    (answer,) = hooks.events(1)
    assert (answer["pid"], answer["event"]) == (program.pid, "restored"), answer
    (tmp_path / "end").touch()  # not earlier: a program that ends does not wait for the agent's answer
    assert output(program) == ["before 2 in MainThread", "before 1", "after restored True", "1"]


def test_a_checkpoint_that_is_given_up_can_be_requested_again(hooks, start):
    await_ready(hooks, start("import snapshot_restore_py as s; s.register_before_snapshot(print)" + WAIT))
    for _ in range(2):
        assert hooks.request_checkpoint()[0]["event"] == "checkpoint"
        assert hooks.give_up()[0]["event"] == "restored"


FORKS = (
    """
import os, sys
print("started", flush=True)
for _ in range(3):
    if not os.fork():
        break
"""
    + WAIT
)


@pytest.mark.parametrize("options", [[], ["-W", "error"]], ids=["", "warnings are errors"])
@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_each_forked_process_has_an_agent_and_no_thread_is_older_than_a_process(hooks, start, python, options):
    program = start(FORKS, *options, python=python)
    pids = {event["pid"] for event in hooks.events(4)}
    assert len(pids) == 4
    assert program.pid in pids
    assert {event["pid"] for event in hooks.request_checkpoint(4)} == pids

    def age(number: int) -> int:
        """Return how many processes and threads are older: the kernel counts up, and begins anew at its limit."""
        return (number - program.pid) % int(Path("/proc/sys/kernel/pid_max").read_text())

    for pid in pids:
        process, *threads = sorted((int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()), key=age)
        assert process == pid
        assert len(threads) == 1
        assert min(map(age, threads)) > max(map(age, pids))
    hooks.move_elsewhere(*pids)
    assert {(event["pid"], event["event"]) for event in hooks.events(4)} == {(pid, "restored") for pid in pids}


SPAWNS = """
import multiprocessing, time

def work():
    time.sleep(60)

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    for _ in range(2):
        spawn.Process(target=work, daemon=True).start()
    work()
"""


def test_each_spawned_process_has_an_agent(hooks, tmp_path):
    """As workers of uvicorn are started; one more process looks after their resources."""
    (tmp_path / "app.py").write_text(SPAWNS)
    program = hooks.start([sys.executable, tmp_path / "app.py"], {"PYTHONPATH": str(hooks.directory / "python")})
    pids = {event["pid"] for event in hooks.events(4)}
    assert program.pid in pids
    assert {event["pid"] for event in hooks.request_checkpoint(4)} == pids
    hooks.move_elsewhere(*pids)
    assert {(event["pid"], event["event"]) for event in hooks.events(4)} == {(pid, "restored") for pid in pids}


def test_nothing_is_open_while_it_waits(hooks, start):
    program = start("import snapshot_restore_py" + WAIT)
    await_ready(hooks, program)
    hooks.request_checkpoint()
    await_closed(program.pid, hooks.directory)


FAILURES = (
    """
from snapshot_restore_py import *

@register_before_snapshot
def early(): print("called", flush=True)

@register_before_snapshot
def broken(): raise LookupError("no pool")

class Closer:
    async def close(self): raise OSError(5, "the second")

register_before_snapshot(Closer().close)
"""
    + WAIT
)


def test_all_callbacks_are_called_and_the_first_error_is_named(hooks, start):
    program = start(FAILURES)
    await_ready(hooks, program)
    (answer,) = hooks.request_checkpoint()
    assert answer == {
        "pid": program.pid,
        "event": "failed",
        "phase": "beforeCheckpoint",
        "error": "OSError: [Errno 5] the second (callbacks: __main__.Closer.close, __main__.broken)",
    }
    program.kill()
    out, errors = program.communicate()
    assert out == "called\n"
    assert "LookupError: no pool" in errors


# Before the checkpoint, the agent has more time.
SOON_LATE = """
import os, time
register_before_snapshot(lambda: os.environ.update(WARMSTART_HOOKS_LIMIT="2"))
"""


@pytest.mark.parametrize(
    ("callback", "error"),
    [
        ("def f(): raise ValueError('a\\nb')", "ValueError: a\nb (callbacks: __main__.f)"),
        (SOON_LATE + "def f(): time.sleep(60)", "TimeoutError: not done within 2 s (callbacks: __main__.f)"),
        ("def f(): raise SystemExit(3)", "SystemExit: 3 (callbacks: __main__.f)"),
    ],
    ids=["throws", "hangs", "exits"],
)
def test_a_process_whose_callback_fails_after_a_restore_ends(hooks, start, callback, error):
    code = f"from snapshot_restore_py import *\n{callback}\nregister_after_restore(f)\n{WAIT}"
    program = start(code)
    await_ready(hooks, program)
    hooks.request_checkpoint()
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1) == [{"pid": program.pid, "event": "failed", "phase": "afterRestore", "error": error}]
    _, errors = program.communicate(timeout=TIMEOUT_S)
    assert program.returncode == 70
    assert f"warmstart: after-restore hook failed: {error}\n" in errors


def test_an_error_of_any_length_is_one_line(hooks, start):
    program = start(
        "import snapshot_restore_py as s\ndef f(): raise ValueError('\\u20ac' * 9999)\ns.register_before_snapshot(f)"
        + WAIT
    )
    await_ready(hooks, program)
    (answer,) = hooks.request_checkpoint()
    assert answer["error"].startswith("ValueError: €€€")


def test_a_signal_is_the_programs(hooks, start):
    program = start(
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nprint('ready', flush=True)\n"
        "print(signal.sigwait([signal.SIGTERM]))"
    )
    await_ready(hooks, program)
    program.terminate()
    assert len(output(program)) == 1


def test_the_installed_package_is_served(hooks, start, tmp_path):
    (tmp_path / "lib").mkdir()
    source = (SOURCES / "python/warmstart_hooks/snapshot_restore.py").read_text()
    (tmp_path / "lib/snapshot_restore_py.py").write_text(source)
    program = start(
        "import snapshot_restore_py as s\ndef f(): raise ValueError(s.__file__)\ns.register_before_snapshot(f)" + WAIT,
        PYTHONPATH=str(tmp_path / "lib"),
    )
    await_ready(hooks, program)
    assert f"{tmp_path}/lib/" in hooks.request_checkpoint()[0]["error"]


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_the_users_sitecustomize_runs(hooks, start, tmp_path, python):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("import builtins\nbuiltins.mine = 'yes'\n")
    code = f"import sys, sitecustomize as s; print(mine, s.__file__, '{hooks.directory}/python' in sys.path)"
    program = start(code, python=python, PYTHONPATH=str(tmp_path / "site"))
    assert output(program) == [f"yes {tmp_path}/site/sitecustomize.py False"]


def test_errors_of_the_users_sitecustomize_are_reported_as_ever(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import does_not_exist\n")
    program = start("print('runs')", PYTHONPATH=str(tmp_path))
    out, errors = program.communicate(timeout=TIMEOUT_S)
    assert out == "runs\n"
    assert "Error in sitecustomize" in errors
    assert "does_not_exist" in errors


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_elsewhere_than_in_a_build_nothing_is_started_or_imported(hooks, start, python):
    (hooks.directory / "checkpoint").unlink()
    code = "import os, sys; print(len(os.listdir('/proc/self/task'))); print(*sorted(sys.modules))"
    threads, modules = output(start(code, python=python))
    assert threads == "1"
    plain = subprocess.check_output([python, "-c", code], text=True, env={}).splitlines()[1]
    assert set(modules.split()) - set(plain.split()) <= {"sitecustomize"}
    # A program that uses the interface runs, and nobody calls it.
    assert output(start("import snapshot_restore_py as s; s.register_after_restore(print); print(1)")) == ["1"]


RENEWED = (
    """
import os, platform, random, tempfile, time, uuid
from snapshot_restore_py import register_after_restore
from warmstart_hooks import renew
renew._ENVIRONMENT = os.environ["NEW_ENVIRONMENT"]
random.seed(1)
tempfile.gettempdir(), uuid.getnode(), platform.uname()
node, names, zone = uuid._node, tempfile._name_sequence, time.tzname
os.environ["SET"] = "by the program"

def report():
    names = ("LATE", "OTHER", "GONE", "SET", "NEW")
    print(*(f"{name}={os.environ.get(name)}" for name in names))
    expected = random.Random(1).random()
    print(random.random() == expected, uuid._node == node, tempfile._name_sequence, platform._uname_cache)
    print(time.tzname, os.popen("echo $LATE").read().strip(), flush=True)
    os._exit(0)

register_after_restore(report)
"""
    + WAIT
)


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ("", "LATE=build OTHER=build GONE=build SET=by the program NEW=None"),
        ("LATE,GONE,TZ", "LATE=pod OTHER=build GONE=None SET=by the program NEW=None"),
        ("*", "LATE=pod OTHER=pod GONE=None SET=by the program NEW=pod"),
    ],
    ids=["none", "some", "all"],
)
def test_environment_and_generators_are_renewed(hooks, start, tmp_path, late, expected):
    (tmp_path / "env").write_bytes(b"LATE=pod\0OTHER=pod\0NEW=pod\0SET=pod\0TZ=EST5\0PATH=/usr/bin:/bin\0")
    program = start(
        RENEWED,
        WARMSTART_HOOKS_LATE=late,
        NEW_ENVIRONMENT=str(tmp_path / "env"),
        **dict.fromkeys(("LATE", "OTHER", "GONE", "SET"), "build"),
        TZ="UTC",
    )
    await_ready(hooks, program)
    hooks.request_checkpoint()
    hooks.move_elsewhere(program.pid)
    variables, generators, zone = output(program)
    assert variables == expected
    assert generators == "False False None None"
    assert zone == ("('EST', 'EST') pod" if late else "('UTC', 'UTC') build")


def test_the_environment_stays_if_nobody_tells_the_new_one(hooks, start, tmp_path):
    (tmp_path / "env").touch()
    program = start(RENEWED, WARMSTART_HOOKS_LATE="*", NEW_ENVIRONMENT=str(tmp_path / "env"), LATE="build")
    await_ready(hooks, program)
    hooks.request_checkpoint()
    hooks.move_elsewhere(program.pid)
    assert output(program)[0].startswith("LATE=build ")
