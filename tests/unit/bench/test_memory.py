"""Memory of a container and of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.bench.memory import read_available_bytes, read_memory

MIB = 1 << 20
# The first process of a PID namespace, and a child that shares half of the memory with it until it writes.
TWO_PROCESSES = """
import os, sys, time
common = bytearray(os.urandom(1 << 20) * 20)
if os.fork() == 0:
    own = bytearray(os.urandom(1 << 20) * 10)
    print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def namespace() -> Iterator[int]:
    """The PID, here, of the first process of a PID namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", TWO_PROCESSES]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unshare:
        assert unshare.stdout is not None
        assert unshare.stdout.readline() == b"ready\n"
        yield int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0])
        unshare.kill()


@pytest.mark.node
def test_memory_is_that_of_all_processes_of_the_namespace(namespace):
    memory = read_memory(Path("/proc"), namespace)
    # Each has the common memory in its page tables, which is one time in all.
    assert 50 * MIB < memory.anonymous_bytes < 80 * MIB
    assert 30 * MIB < memory.proportional_bytes < 60 * MIB
    assert memory.file_bytes > 0
    assert memory.cgroup_bytes > 0


@pytest.mark.node
def test_memory_adds_up(namespace):
    memory = read_memory(Path("/proc"), namespace)
    assert (memory + memory).anonymous_bytes == 2 * memory.anonymous_bytes


@pytest.mark.linux
def test_available_memory_is_less_than_all():
    assert 0 < read_available_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
