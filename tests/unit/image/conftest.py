"""Layouts to push, and a proxy that spoils the conversation with a registry."""

from __future__ import annotations

import http.client
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from pathlib import Path
from threading import Thread

import pytest

OCI = "application/vnd.oci.image"


@pytest.fixture(autouse=True)
def _no_own_credentials(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


class LayoutMaker:
    """An OCI layout that is written piece by piece; descriptors are JSON objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self.list()

    def write(self, name: str, document: object) -> None:
        (self.path / name).write_bytes(document if isinstance(document, bytes) else dumps(document).encode())

    def list(self, *manifests: dict, **more: object) -> None:
        self.write("index.json", {"schemaVersion": 2, "manifests": manifests, **more})

    def blob(self, content: object, media_type: str, **more: object) -> dict:
        data = content if isinstance(content, bytes) else dumps(content).encode()
        digest = sha256(data).hexdigest()
        self.write(f"blobs/sha256/{digest}", data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    def image(self, *layers: bytes, config: object = None, manifest: object = None, **more: object) -> dict:
        """The manifest of an image; `manifest` holds more fields of it, `more` goes into its descriptor."""
        config = {"os": "linux", "architecture": "amd64"} if config is None else config
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(config, f"{OCI}.config.v1+json"),
            "layers": [self.blob(layer, f"{OCI}.layer.v1.tar") for layer in layers],
            **(manifest or {}),
        }
        return self.blob(document, document["mediaType"], **more)

    def index(self, *manifests: dict, **more: object) -> dict:
        document = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
        return self.blob(document, document["mediaType"], **more)


@pytest.fixture
def layout(tmp_path) -> LayoutMaker:
    return LayoutMaker(tmp_path / "layout")


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer HTTP requests with `handler`; gives HOST:PORT."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Fault:
    pattern: str
    spoil: Callable[..., Answer | None]
    times: int


class SpoilingProxy:
    """Passes requests on to a registry and notes them in `seen`, as METHOD PATH.

    Faults are looked for in "METHOD PATH". One either answers in the registry's place (`answer`, `hang_up`) or
    edits the registry's answer (`edit`).
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.host = ""
        self.seen: list[str] = []
        self.faults: list[Fault] = []

    def answer(self, pattern: str, status: int, headers=None, body: bytes = b"", times: int = 1) -> None:
        self.faults.append(Fault(pattern, lambda *_: Answer(status, headers or {}, body), times))

    def hang_up(self, pattern: str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, lambda *_: None, times))

    def edit(self, pattern: str, change: Callable[[Answer], Answer], times: int = 1) -> None:
        self.faults.append(Fault(pattern, lambda handler: change(handler.forward()), times))

    def writes(self) -> list[str]:
        return [line for line in self.seen if line.split()[0] not in ("GET", "HEAD")]

    def find_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None


def make_handler(proxy: SpoilingProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            line = f"{self.command} {self.path}"
            proxy.seen.append(line)
            length = int(self.headers.get("Content-Length", 0))
            self.body = self.rfile.read(length)
            if len(self.body) < length:  # the client broke off
                self.close_connection = True
                return
            fault = proxy.find_fault(line)
            answer = fault.spoil(self) if fault else self.forward()
            if answer is None:
                # Linger of 0 s: the connection is reset, not closed.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815

        def forward(self) -> Answer:
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.request(self.command, self.path, self.body, dict(self.headers))
            response = connection.getresponse()
            headers = {name: value for name, value in response.getheaders() if name != "Transfer-Encoding"}
            answer = Answer(response.status, headers, response.read())
            connection.close()
            return answer

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def proxy(registry) -> Iterator[SpoilingProxy]:
    proxy = SpoilingProxy(registry)
    with serve(make_handler(proxy)) as host:
        proxy.host = host
        yield proxy


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses between retries, noted and not made."""
    made: list[float] = []
    monkeypatch.setattr("warmstart.image.registry.connection.time.sleep", made.append)
    return made
