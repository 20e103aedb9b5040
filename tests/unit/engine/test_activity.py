"""The activity of real processes, by the kernel's own files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from warmstart.core.errors import EngineError
from warmstart.engine.activity import read_activity
from warmstart.engine.target import Activity

PROC = Path("/proc")

pytestmark = pytest.mark.linux


@pytest.fixture(autouse=True)
def counted():
    try:
        read_activity(PROC, os.getpid())
    except EngineError as error:
        pytest.skip(str(error))


def test_ports_that_a_process_listens_on():
    with socket.create_server(("0.0.0.0", 0)) as outer, socket.create_server(("127.0.0.1", 0)) as inner:
        found = read_activity(PROC, os.getpid())
        assert outer.getsockname()[1] in found.ports
        assert inner.getsockname()[1] in found.inner_ports - found.ports


def test_a_socket_that_does_not_listen_counts_not():
    with socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))
        assert bound.getsockname()[1] not in read_activity(PROC, os.getpid()).ports


def test_the_processor_time_of_ended_children_counts():
    before = read_activity(PROC, os.getpid()).cpu_s
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert read_activity(PROC, os.getpid()).cpu_s > before + 0.01


def test_the_processor_time_of_compilers():
    program = """if True:
        import sys
        for name in ("C2 CompilerThre", "main"):
            with open("/proc/self/comm", "w") as comm:
                comm.write(name)
            sum(range(1_000_000))
            print(flush=True)
            sys.stdin.readline()
    """
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = Activity(0.0)
        for names_compiler in (True, False):
            child.stdout.readline()
            found = read_activity(PROC, os.getpid())
            assert ((child.pid, child.pid) in found.compilers_s) is names_compiler
            assert not names_compiler or found.compiled_since(before) > 0
            child.stdin.write(b"\n")
            child.stdin.flush()


def test_compilers_that_have_ended_meanwhile_do_not_count():
    before = Activity(9.0, compilers_s={(7, 8): 5.0, (7, 9): 1.0})
    assert Activity(9.9, compilers_s={(7, 9): 1.5, (7, 10): 0.25}).compiled_since(before) == 0.75


def test_a_process_that_has_ended():
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(EngineError, match="cannot read the container's activity"):
        read_activity(PROC, child.pid)
