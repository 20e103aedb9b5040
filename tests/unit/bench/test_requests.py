"""The first requests to a container: their latency, and what they use of its processor and memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from warmstart.bench.requests import Requests, find_ends, send_requests
from warmstart.core.errors import AppError
from warmstart.engine.target import Activity
from warmstart.recipe.model import HttpGet

# Each request computes in a thread of a pool, and touches a MiB of new memory.
SERVER = """
import http.server, time
kept = []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open("/proc/thread-self/comm", "w").write("worker-12")
        kept.append(bytearray(b"x" * (1 << 20)))
        end = time.thread_time() + 0.02
        while time.thread_time() < end: pass
        self.send_response(200 if self.path == "/" else 500)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
PROC = Path("/proc")


@dataclass(frozen=True)
class Running:
    """A process in a PID namespace of its own, as a container."""

    pid: int
    address: str = "127.0.0.1"

    def connect(self, port: int, _host: str | None, timeout_s: float) -> socket.socket:
        return socket.create_connection((self.address, port), timeout_s)

    def activity(self) -> Activity:
        """The processor time, which the kernel counts for a cgroup elsewhere."""
        ticks = (PROC / str(self.pid) / "schedstat").read_text().split()[0]
        return Activity(int(ticks) / 1e9, frozenset(), frozenset())


@pytest.fixture
def server() -> Iterator[tuple[Running, int]]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unshare:
        assert unshare.stdout is not None
        port = int(unshare.stdout.readline())
        yield Running(int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0])), port
        unshare.kill()


@pytest.mark.parametrize(
    ("count", "ends"),
    [(0, ()), (1, (1,)), (2, (1, 2)), (10, (1, 10)), (100, (1, 10, 100)), (250, (1, 10, 100, 250))],
)
def test_the_first_requests_are_looked_at_in_powers_of_ten(count, ends):
    assert find_ends(count) == ends


@pytest.mark.node
def test_the_use_is_that_of_the_container_and_its_threads(server):
    running, port = server
    requests = send_requests(PROC, running, [HttpGet(port, "/")], 10)
    assert len(requests.durations_s) == 10
    assert all(duration_s >= 0.02 for duration_s in requests.durations_s)
    first, last = requests.uses
    assert (first.requests, last.requests) == (1, 10)
    assert 0.2 <= last.cpu_s < 10
    assert last.cpu_s > first.cpu_s
    # 256 pages of 4 KiB in a MiB, at most; fewer and larger ones if the machine has huge pages.
    assert last.faults > 10
    assert last.anonymous_bytes >= first.anonymous_bytes + (9 << 20)
    assert set(last.threads_s) == {"worker"}
    assert last.threads_s["worker"] >= 0.2


@pytest.mark.node
def test_a_request_that_fails_is_named(server):
    running, port = server
    with pytest.raises(AppError, match=r"request 2 of 3, .*/broken.*500"):
        send_requests(PROC, running, [HttpGet(port, "/"), HttpGet(port, "/broken")], 3)


def test_without_requests_nothing_is_measured():
    assert send_requests(Path("/nowhere"), Running(0), [], 0, idle_s=3600) == Requests()
