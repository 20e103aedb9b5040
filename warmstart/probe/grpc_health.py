"""Run the gRPC health check as the kubelet does, without TLS.

Source: pkg/probe/grpc/grpc.go of kubernetes/kubernetes.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from warmstart import __version__
from warmstart.core.workspace import open_workspace
from warmstart.engine.target import Target
from warmstart.probe.limit import Outcome, TimeLimit
from warmstart.recipe.model import Grpc

_CHUNK_BYTES = 64 * 1024


def check_grpc_health(target: Target, action: Grpc, limit: TimeLimit) -> Outcome:
    """Call grpc.health.v1.Health/Check once; the status SERVING is a success.

    Raises:
        OSError: the connection failed, or `limit` expired.
    """
    request = HealthCheckRequest(service=action.service)
    host = f"[{target.address}]" if ":" in target.address else target.address
    options = [
        ("grpc.default_authority", f"{host}:{action.port}"),
        ("grpc.primary_user_agent", f"warmstart/{__version__}"),
        ("grpc.enable_retries", 0),
    ]
    with (
        limit.connect(target, action.port, None) as remote,
        _local_end(remote, limit) as path,
        grpc.insecure_channel(f"unix:{path}", options=options) as channel,
    ):
        try:
            reply = HealthStub(channel).Check(request, timeout=limit.remaining_s())
        except grpc.RpcError as error:
            return Outcome(ok=False, seen=_explain(error, limit))
    serving = reply.status == HealthCheckResponse.SERVING
    return Outcome(ok=serving, seen=f"gRPC health {HealthCheckResponse.ServingStatus.Name(reply.status)}")


def _explain(error: grpc.RpcError, limit: TimeLimit) -> str:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {limit.total_s:g} s"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the server does not implement grpc.health.v1.Health"
    return f"gRPC {code.name}: {details}"


@contextmanager
def _local_end(remote: socket.socket, limit: TimeLimit) -> Iterator[Path]:
    """Make a Unix socket that forwards its first connection to `remote`.

    grpcio opens its own connections, but only the engine can connect to the container.
    """
    remote.settimeout(limit.remaining_s())
    with (
        open_workspace("grpc") as directory,
        _opened(directory) as descriptor,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        # A socket path must be short (unix(7)), and the directory's may be long.
        path = Path(f"/proc/self/fd/{descriptor}/grpc")
        listener.bind(str(path))
        listener.listen(1)
        stopped, stop = socket.socketpair()
        with stopped:
            forwarder = threading.Thread(target=_forward, args=(listener, remote, stopped), daemon=True)
            forwarder.start()
            try:
                yield path
            finally:
                stop.close()
                forwarder.join()


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _forward(listener: socket.socket, remote: socket.socket, stopped: socket.socket) -> None:
    """Join the listener's first connection to `remote` until one of them ends, or `stopped` does."""
    if stopped in _readable(listener, stopped):
        return
    local, _ = listener.accept()
    other = {local: remote, remote: local}
    with local, suppress(OSError):
        while stopped not in (ready := _readable(local, remote, stopped)):
            for end in ready:
                data = end.recv(_CHUNK_BYTES)
                if not data:
                    return
                other[end].sendall(data)


def _readable(*socks: socket.socket) -> list[socket.socket]:
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        return [sock for sock in socks if sock in {key.fileobj for key, _ in selector.select()}]
