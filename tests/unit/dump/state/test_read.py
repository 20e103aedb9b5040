"""What a real process has set in the kernel is read from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import traits

from warmstart.dump.proc.container import read_tree
from warmstart.dump.state.model import IDENTITY, NETWORK, Facts, KernelState
from warmstart.dump.state.read import find_own_pids, read_state
from warmstart.dump.state.tasks import read_status

pytestmark = pytest.mark.linux
PROC = Path("/proc")


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    """Start the service in tests/programs/traits.py."""
    command = [sys.executable, "-S", str(traits.PROGRAM), "decisive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def state(service) -> KernelState:
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
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        state = read_state(PROC, process.pid)
        process.kill()
    server, client = find_descriptors(state, "IPv4 TCP")
    assert "TCP_NODELAY" in server
    assert client.keys() == {IDENTITY, "flags"}


def test_a_process_that_is_gone_is_an_error():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        read_state(PROC, process.pid)


def test_two_looks_at_a_service_agree(service, state):
    assert state.agree(read_state(PROC, service)) == state


def test_a_process_of_another_pid_namespace_is_found_by_its_number_there(service, tmp_path):
    """The same procfs under another path: its numbers are taken for those of another namespace."""
    (tmp_path / "proc").symlink_to("/proc")
    tree = read_tree(PROC, service)
    assert find_own_pids(tmp_path / "proc", tree) == {service: service}
    assert int(read_status(f"/proc/{service}")["NSpid"].split()[-1]) == tree[0].pids[-1]
