"""The connections of a process are shut down as a restore leaves them; its other sockets stay as they are."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warmstart.engine.connections import close_connections

pytestmark = pytest.mark.linux

HOLDER = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
shared = connection.dup()
one, other = socket.socketpair()
server = socket.create_server(("127.0.0.1", 0))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect(("127.0.0.1", 9))
print("ready", flush=True)
sys.stdin.readline()
print(connection.recv(1))
try:
    connection.sendall(b"x")
except BrokenPipeError:
    print("broken pipe")
other.sendall(b"y")
print(one.recv(1))
datagrams.send(b"z")
socket.create_connection(server.getsockname()).close()
print("served")
"""


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def server(request) -> Iterator[socket.socket]:
    family, host = request.param
    with socket.create_server((host, 0), family=family) as listening:
        yield listening


def test_a_connection_has_hung_up_and_other_sockets_stay(server):
    if os.geteuid() != 0:
        pytest.skip("needs root to copy a descriptor of another process")
    command = [sys.executable, "-c", HOLDER, *map(str, server.getsockname()[:2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        accepted, _ = server.accept()
        with accepted:
            assert holder.stdout.readline() == "ready\n"
            # Two descriptors, one connection.
            assert close_connections(Path("/proc"), holder.pid) == 1
            assert accepted.recv(1) == b""
            assert close_connections(Path("/proc"), holder.pid) == 0
            said, _ = holder.communicate("\n", timeout=60)
    assert said.splitlines() == ["b''", "broken pipe", "b'y'", "served"]


def test_connections_of_others_stay(server):
    with socket.create_connection(server.getsockname()[:2]) as client, subprocess.Popen(["sleep", "60"]) as other:
        assert close_connections(Path("/proc"), other.pid) == 0
        other.kill()
        client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert select.select([accepted], [], [], 10)[0]


def test_a_process_in_another_network_is_left_alone(server):
    """As is a process of the host that has the number of one that has ended."""
    if os.geteuid() != 0:
        pytest.skip("needs root to copy a descriptor of another process")
    # The first process moves, after its child has connected.
    begin = "import os, subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL); input()"
    moved = ["unshare", "--net", "sh", "-c", "echo moved; exec sleep 60"]
    command = [sys.executable, "-c", f"{begin}; os.execvp('unshare', {moved})"]
    holder = [sys.executable, "-c", HOLDER, *map(str, server.getsockname()[:2])]
    with subprocess.Popen([*command, *holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        try:
            accepted, _ = server.accept()
            with accepted:
                assert first.stdout.readline() == "ready\n"
                first.stdin.write("\n")
                first.stdin.flush()
                assert first.stdout.readline() == "moved\n"
                assert close_connections(Path("/proc"), first.pid) == 0
        finally:
            first.kill()


def test_a_process_that_is_gone_is_an_error():
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(ProcessLookupError):
        close_connections(Path("/proc"), ended.pid)
