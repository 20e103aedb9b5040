from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from warmstart.core.errors import HostError
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import perform
from warmstart.recipe.model import Grpc

pytestmark = pytest.mark.linux

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def start_server():
    servers = []

    def start(statuses):
        server = grpc.server(ThreadPoolExecutor(max_workers=2))
        if statuses is not None:
            servicer = health.HealthServicer()
            for service, status in statuses.items():
                servicer.set(service, status)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    for server in servers:
        server.stop(None).wait()


def check(target, port, service="", limit_s=5.0):
    outcome = perform(target, Grpc(port=port, service=service), TimeLimit(limit_s))
    assert not [thread for thread in threading.enumerate() if "_forward" in thread.name]
    return outcome


def test_serving_is_a_success(local_target, start_server):
    port = start_server({"": SERVING, "shop.Cart": SERVING})
    assert check(local_target, port).ok
    assert check(local_target, port, "shop.Cart").ok


def test_its_socket_lies_with_the_workspaces_however_long_their_path_is(
    local_target, start_server, monkeypatch, tmp_path
):
    parent = tmp_path / ("long" * 40)
    parent.mkdir()
    monkeypatch.setenv("WARMSTART_TMPDIR", str(parent))
    assert check(local_target, start_server({"": SERVING})).ok
    assert list(parent.iterdir()) == []
    parent.rmdir()
    with pytest.raises(HostError, match="cannot create a directory in"):
        check(local_target, start_server({"": SERVING}))


@pytest.mark.parametrize(
    ("statuses", "service", "seen"),
    [
        ({"": NOT_SERVING}, "", "gRPC health NOT_SERVING"),
        ({"": SERVING}, "shop.Cart", "gRPC NOT_FOUND"),
        (None, "", "the server does not implement grpc.health.v1.Health"),
    ],
)
def test_anything_else_is_a_failure(local_target, start_server, statuses, service, seen):
    outcome = check(local_target, start_server(statuses), service)
    assert not outcome.ok
    assert outcome.seen.startswith(seen)


def test_a_refused_connection_is_a_failure(local_target, unused_port):
    assert check(local_target, unused_port).seen == "connection refused"


def test_a_server_that_closes_the_connection_is_a_failure(local_target, serve_bytes):
    start = time.monotonic()
    outcome = check(local_target, serve_bytes(lambda connection: None), limit_s=60)
    assert time.monotonic() - start < 20
    assert outcome.seen.startswith("gRPC UNAVAILABLE")


def test_a_server_that_never_answers_does_not_exceed_the_limit(local_target, serve_bytes):
    def handle(connection):
        while connection.recv(1000):
            pass

    start = time.monotonic()
    outcome = check(local_target, serve_bytes(handle), limit_s=0.3)
    assert time.monotonic() - start < 60
    assert outcome.seen == "no answer within 0.3 s"


def test_ctrl_c_comes_through_while_the_server_does_not_answer(local_target, serve_bytes):
    def handle(connection):
        connection.recv(1000)
        os.kill(os.getpid(), signal.SIGINT)
        while connection.recv(1000):
            pass

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        check(local_target, serve_bytes(handle), limit_s=60)
    assert time.monotonic() - start < 30


def test_a_server_of_another_protocol_is_a_failure(local_target, serve_http):
    port = serve_http(lambda handler: handler.answer(200)).server_port
    assert not check(local_target, port).ok
