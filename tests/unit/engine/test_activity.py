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


def test_a_process_that_has_ended():
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(EngineError, match="cannot read the container's activity"):
        read_activity(PROC, child.pid)
