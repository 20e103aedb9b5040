from __future__ import annotations

import queue
import socket

import pytest

from warmstart.core.errors import EngineError
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.recipe.model import Exec, Grpc, HttpGet, TcpSocket


def test_a_tcp_connection_that_is_accepted_is_a_success_and_is_closed(local_target, serve_bytes):
    received = queue.SimpleQueue()
    port = serve_bytes(lambda connection: received.put(connection.recv(1000)))
    assert perform(local_target, TcpSocket(port), TimeLimit(5)).ok
    assert received.get(timeout=60) == b""


def test_a_tcp_connection_that_is_refused_is_a_failure(local_target, unused_port):
    outcome = perform(local_target, TcpSocket(unused_port), TimeLimit(5))
    assert not outcome.ok
    assert outcome.seen == "connection refused"


def test_a_host_of_the_action_is_connected_to(local_target, unused_port):
    with socket.create_server(("127.0.0.2", unused_port)):
        assert perform(local_target, TcpSocket(unused_port, host="127.0.0.2"), TimeLimit(5)).ok


@pytest.mark.parametrize(
    ("script", "ok", "seen"),
    [
        ("exit 0", True, "exit code 0"),
        ("echo fine", True, "exit code 0: fine"),
        ("echo out; echo one >&2; echo two >&2; exit 3", False, "exit code 3: one | two"),
        ("echo 1; echo 2; echo 3; echo 4; exit 1", False, "exit code 1: 2 | 3 | 4"),
    ],
)
def test_a_command_that_exits_with_0_is_a_success(local_target, script, ok, seen):
    outcome = perform(local_target, Exec(("sh", "-c", script)), TimeLimit(10))
    assert (outcome.ok, outcome.seen) == (ok, seen)


def test_a_command_that_takes_too_long_is_a_failure(local_target):
    outcome = perform(local_target, Exec(("sleep", "60")), TimeLimit(0.2))
    assert not outcome.ok
    assert outcome.seen == "no answer within 0.2 s"


def test_a_command_that_the_runtime_cannot_run_is_a_failure(local_target, monkeypatch):
    def refuse(command, timeout_s):
        raise EngineError("no such file: jcmd")

    monkeypatch.setattr(local_target, "exec", refuse)
    outcome = perform(local_target, Exec(("jcmd",)), TimeLimit(5))
    assert not outcome.ok
    assert outcome.seen == "no such file: jcmd"


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (HttpGet(port=8080, path="/ready"), "httpGet http://127.0.0.1:8080/ready"),
        (HttpGet(port=8080, path="/renew", method="POST"), "httpGet POST http://127.0.0.1:8080/renew"),
        (TcpSocket(5432), "tcpSocket 127.0.0.1 port 5432"),
        (Exec(("sh", "-c", "a b")), "exec sh -c 'a b'"),
        (Exec(("ping", "secret"), written=("ping", "$(PASSWORD)")), "exec ping '$(PASSWORD)'"),
        (Grpc(50051, "shop"), "grpc 127.0.0.1 port 50051, service 'shop'"),
    ],
)
def test_every_action_has_a_description(local_target, action, text):
    assert describe(local_target, action) == text
