"""What a real process has set in the kernel is read from outside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import traits
from support.running_python import running_python

from warmstart.core.ptrace import is_supported
from warmstart.dump.proc.container import read_tree
from warmstart.dump.proc.status import read_status
from warmstart.dump.state import asked
from warmstart.dump.state.model import IDENTITY, NETWORK, Facts, KernelState
from warmstart.dump.state.read import find_own_pids, read_state

pytestmark = pytest.mark.linux
PROC = Path("/proc")


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    """Start the service in tests/programs/traits.py."""
    with running_python(str(traits.PROGRAM), "decisive") as pid:
        yield pid


@pytest.fixture(scope="module")
def state(service) -> KernelState:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked, "OTHERS_S", 60.0)  # time to ask all threads on a busy machine
        return read_state(PROC, service)


def values(state: KernelState, kind: str, name: str, identity: str = "") -> set[str]:
    """Return the values of a fact of all subjects of a kind."""
    return {
        facts[name]
        for subject, facts in state.subjects.items()
        if subject.startswith(kind) and name in facts and facts.get(IDENTITY, "").startswith(identity)
    }


@pytest.mark.parametrize(("name", "value"), traits.THREAD.items())
def test_settings_of_threads(state, name, value):
    assert value in values(state, "thread", name)


def test_each_thread_has_its_own(state):
    assert len(values(state, "thread", "NoNewPrivs")) == 2
    assert str(min(os.sched_getaffinity(0))) in values(state, "thread", "Cpus_allowed_list")


@pytest.mark.parametrize(("name", "value"), traits.PROCESS.items())
def test_settings_of_processes(state, name, value):
    assert values(state, "process", name) == {value}


@pytest.mark.parametrize("signals", [("SigCgt", 10), ("SigIgn", 12)], ids=str)
def test_signals_of_processes(state, signals):
    name, number = signals
    (found,) = values(state, "process", name)
    assert int(found, 16) & 1 << (number - 1)


@pytest.mark.parametrize(
    ("identity", "name", "value"),
    [(identity, name, value) for identity, facts in traits.DESCRIPTORS.items() for name, value in facts.items()],
)
def test_settings_of_descriptors(state, identity, name, value):
    assert value in values(state, "descriptor", name, identity)


def test_locks_are_of_the_descriptor(state):
    locks = {facts[IDENTITY].rpartition(".")[2]: facts["locks"] for facts in find_descriptors(state, "/tmp/traits.")}
    assert locks == {"flock": "FLOCK ADVISORY WRITE 0 EOF", "posix": "POSIX ADVISORY WRITE 0 EOF"}


def test_an_epoll_names_what_it_watches(state):
    (watcher,) = find_descriptors(state, "anon_inode:[eventpoll]")
    watched = next(subject for subject, facts in state.subjects.items() if facts.get("signal") == "10")
    assert watcher["watched descriptors"] == watched.split()[-1]


def test_an_epoll_does_not_name_what_was_closed():
    """A copy of the descriptor keeps the registration, and another file may get the number."""
    code = (
        "import os, select, sys\n"
        "reader, _ = os.pipe()\n"
        "watcher = select.epoll()\n"
        "watcher.register(reader, select.EPOLLIN)\n"
        "os.dup2(reader, 200)\n"
        "os.close(reader)\n"
        "assert os.eventfd(0) == reader\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running_python("-c", code) as pid:
        (watcher,) = find_descriptors(read_state(PROC, pid), "anon_inode:[eventpoll]")
    assert watcher["watched descriptors"] == watcher["registrations"] == ""


def find_descriptors(state: KernelState, identity: str) -> list[Facts]:
    return [facts for facts in state.subjects.values() if facts.get(IDENTITY, "").startswith(identity)]


@pytest.mark.parametrize(("name", "value"), traits.DECISIVE.items())
def test_settings_that_an_application_cannot_do_without(service, state, name, value):
    if name == "semaphore" and "eventfd-semaphore" not in read_eventfd(service):
        pytest.skip("this kernel does not show it (before Linux 6.5)")
    assert value in values(state, "", name)


def read_eventfd(pid: int) -> str:
    links = (PROC / str(pid) / "fd").iterdir()
    number = next(link.name for link in links if "[eventfd]" in str(link.readlink()))
    return (PROC / str(pid) / "fdinfo" / number).read_text()


def test_the_network_has_no_groups_of_the_kernel(state):
    assert "224.0.0.1" not in state.subjects[NETWORK]["groups"].replace("224.0.0.1 ", "")
    assert "ff02::1 " not in state.subjects[NETWORK]["groups"]


def test_a_connection_is_only_identified():
    """It is closed in the dump, so its options do not matter."""
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    with running_python("-c", code) as pid:
        state = read_state(PROC, pid)
    server, client = find_descriptors(state, "IPv4 TCP")
    assert "TCP_NODELAY" in server
    assert client.keys() == {IDENTITY, "flags"}


def test_an_accepted_connection_has_no_name_of_its_own(tmp_path):
    """A restored one has none, and nobody could use it."""
    code = (
        "import socket, sys\n"
        "server = socket.socket(socket.AF_UNIX)\n"
        "server.bind(sys.argv[1])\n"
        "server.listen()\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "accepted, _ = server.accept()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = str(tmp_path / "socket")
    with running_python("-c", code, path) as pid:
        state = read_state(PROC, pid)
    server, client, accepted = find_descriptors(state, "UNIX socket")
    assert (server["socket name"], server["peer"]) == (path, "no")
    assert "socket name" not in client | accepted
    assert client["peer"] == accepted["peer"] == "yes"


def test_a_process_that_is_gone_is_an_error():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        read_state(PROC, process.pid)


def test_two_looks_at_a_service_agree(service, state):
    again = read_state(PROC, service).subjects
    assert again.keys() == state.subjects.keys()
    # A thread that does not wait at the moment cannot be asked.
    both = [(subject, name) for subject, facts in state.subjects.items() for name in facts if name in again[subject]]
    assert [each for each in both if again[each[0]][each[1]] != state.subjects[each[0]][each[1]]] == []


@pytest.mark.skipif(not is_supported() or os.geteuid() != 0, reason="needs root on x86-64")
def test_what_only_the_process_can_read_is_read_too(state):
    assert values(state, "process", "huge pages off") == {"1"}
    assert values(state, "process", "intervals of timers") == {"0 100.000000000 runs"}
    assert any("10 " in actions for actions in values(state, "process", "signal actions"))


def test_a_process_of_another_pid_namespace_is_found_by_its_number_there(service, tmp_path):
    """The same procfs under another path: its numbers are taken for those of another namespace."""
    (tmp_path / "proc").symlink_to("/proc")
    tree = read_tree(PROC, service)
    assert find_own_pids(tmp_path / "proc", tree) == {service: service}
    assert int(read_status(f"/proc/{service}")["NSpid"].split()[-1]) == tree[0].pids[-1]


@pytest.mark.skipif(not is_supported() or os.geteuid() != 0, reason="needs root on x86-64")
def test_of_threads_with_the_same_settings_a_later_look_asks_one(monkeypatch):
    monkeypatch.setattr(asked, "OTHERS_S", 60.0)
    code = (
        "import ctypes, sys, threading\n"
        "def stay(pdeath_signal):\n"
        "    ctypes.CDLL(None).prctl(1, pdeath_signal, 0, 0, 0)\n"
        "    ready.wait()\n"
        "    threading.Event().wait()\n"
        "ready = threading.Barrier(5)\n"
        "for each in (10, 10, 10, 12): threading.Thread(target=stay, args=(each,), daemon=True).start()\n"
        "ready.wait()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with running_python("-c", code) as pid:
        before = read_state(PROC, pid)
        after = read_state(PROC, pid, before=before)
    assert read_signals(before) == ["0", "10", "10", "10", "12"]
    assert read_signals(after) == ["0", "10", "12"]


def read_signals(state: KernelState) -> list[str]:
    """Return the parent-death signals of the threads that were asked."""
    name = "parent-death signal"
    return sorted((facts[name] for facts in state.subjects.values() if name in facts), key=int)
