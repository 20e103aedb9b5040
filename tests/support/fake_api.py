"""A fake API server: an HTTP server that returns canned replies and records all requests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from warmstart.kube.client import Cluster

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "app",
        "namespace": "shop",
        "uid": "u1",
        "labels": {"app": "app", "pod-template-hash": "1"},
        "annotations": {"a.b/c": "d"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "app-1", "controller": True}],
    },
    "spec": {
        "nodeName": "node-1",
        "containers": [{"name": "app", "image": "app:1", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
        "initContainers": [{"name": "first", "image": "first:1"}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
                    ]
                }
            }
        },
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "hostIP": "10.1.0.1",
        "reason": "none",
        "conditions": [{"type": "Ready", "status": "False", "message": "not yet"}],
        "containerStatuses": [
            {
                "name": "app",
                "image": "app:1",
                "imageID": "app@sha256:0",
                "ready": True,
                "restartCount": 1,
                "state": {"waiting": {"reason": "Waiting", "message": "for it"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
            }
        ],
    },
}


@dataclass(frozen=True)
class Reply:
    """A reply; a body that is not bytes is sent as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """The frames of a WebSocket, as pairs of a channel number and data, sent after `reads` bytes of standard input."""

    frames: Sequence[tuple[int, bytes]]
    reads: int = 0


@dataclass
class FakeApi:
    """Replies by METHOD PATH, without the query (a function gets the query), and the recorded requests."""

    answers: dict[str, Reply | Stream | Callable[[str], Reply | Stream]]
    seen: list[str] = field(default_factory=list)
    stdin: bytearray = field(default_factory=bytearray)
    bodies: list[Any] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: FakeApi

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.api.seen.append(f"{self.command} {self.path}")
        self.api.bodies.append(json.loads(body) if body else None)
        answer = self.api.answers.get(f"{self.command} {url.path}", Reply({"message": "not here"}, 404))
        if callable(answer):
            answer = answer(url.query)
        if isinstance(answer, Stream):
            self.stream(answer)
        else:
            self.reply(answer)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def reply(self, answer: Reply) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response_only(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        # If the reply announces more bytes than it has, the client must not wait for them.
        self.close_connection = "Content-Length" in answer.headers

    def stream(self, answer: Stream) -> None:
        digest = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + _GUID).encode()).digest()
        self.send_response_only(101)
        for name, value in {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
            "Sec-WebSocket-Protocol": "v4.channel.k8s.io",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        read = 0
        while read < answer.reads:
            read += self.read_stdin()
        for channel, data in answer.frames:
            piece = bytes([channel]) + data
            self.wfile.write(struct.pack(">BBQ", 0x82, 127, len(piece)) + piece)
        self.wfile.write(b"\x88\x00")
        self.close_connection = True

    def read_stdin(self) -> int:
        """Read a frame of standard input, and return its number of bytes."""
        _, length = self.rfile.read(2)
        length &= 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.rfile.read(2))
        mask, data = self.rfile.read(4), self.rfile.read(length)
        plain = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        assert plain[0] == 0
        self.api.stdin += plain[1:]
        return length - 1

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


@contextlib.contextmanager
def run_api(api: FakeApi) -> Iterator[Cluster]:
    """Run the server on this machine during the block, and connect to it as a cluster."""
    from kubernetes.client import Configuration

    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        settings = Configuration()
        settings.host = f"http://127.0.0.1:{server.server_port}"
        try:
            with Cluster(settings, "shop") as cluster:
                yield cluster
        finally:
            server.shutdown()
            thread.join()
