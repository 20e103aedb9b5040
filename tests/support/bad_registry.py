"""A registry that misbehaves in one way and records all requests."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANY = 1 << 26


@dataclass(frozen=True)
class Seen:
    """A request: METHOD PATH, and its credentials."""

    line: str
    authorization: str | None


@dataclass
class BadRegistry:
    """The behaviour of a registry, and the requests to it.

    Attributes:
        misbehave: function that replies to a request, or returns False to let the registry reply properly.
        layout: OCI layout with one image, returned for any name.
        elsewhere: HOST:PORT of another server, as a target of redirects.
        seen: requests in order of arrival.
        ended: set at the end of the test, to stop endless responses.
    """

    misbehave: Callable[[Request], bool]
    layout: Path
    elsewhere: str = ""
    host: str = ""
    seen: list[Seen] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


class Request(BaseHTTPRequestHandler):
    """A request, with several ways to reply to it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: BadRegistry

    def handle_any(self) -> None:
        self.registry.seen.append(Seen(f"{self.command} {self.path}", self.headers.get("Authorization")))
        if not self.registry.misbehave(self):
            self.take_body()
            self.behave()

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def take_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, body: bytes = b"", *, size: int | None = None, **headers: str) -> bool:
        """Reply, and return True. Underscores in names of headers become hyphens."""
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection |= size is not None
        return True

    def drip(self, start: bytes, piece: bytes) -> bool:
        """Send `start`, and then `piece` repeatedly until the client disconnects."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(start)
            while not self.registry.ended.wait(0.02):
                self.wfile.write(piece)
        return True

    def reset(self) -> bool:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        return True

    def asks(self, *parts: str) -> bool:
        """Return whether the path of the request contains one of these parts."""
        return any(part in self.path for part in parts)

    def blob(self, digest: str) -> bytes:
        return (self.registry.layout / "blobs" / digest.replace(":", "/")).read_bytes()

    def manifest(self) -> bytes:
        index = json.loads((self.registry.layout / "index.json").read_text())
        return self.blob(index["manifests"][0]["digest"])

    def behave(self) -> bool:
        """Reply like a regular registry: it has the image, and accepts every push."""
        if self.command in ("POST", "PATCH"):
            return self.reply(202, Location="/v2/app/blobs/uploads/1")
        if self.command == "PUT":
            return self.reply(201)
        if self.asks("/token"):
            return self.reply(200, b'{"token": "t"}')
        if self.command == "HEAD" or self.asks("/referrers/"):
            return self.reply(404)
        if self.asks("/manifests/"):
            return self.reply(200, self.manifest(), Content_Type=MANIFEST)
        return self.reply(200, self.blob(self.path.rpartition("/")[2]))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect, as they should."""


@contextlib.contextmanager
def run_bad_registry(registry: BadRegistry) -> Iterator[BadRegistry]:
    """Run the registry on this machine during the block."""
    handler = type("Handler", (Request,), {"registry": registry})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        registry.host = f"127.0.0.1:{server.server_port}"
        try:
            yield registry
        finally:
            registry.ended.set()
            server.shutdown()
            thread.join()


def _on(part: str, answer: Callable[[Request], bool]) -> Callable[[Request], bool]:
    return lambda request: request.command == "GET" and request.asks(part) and answer(request)


def _headers(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {MANIFEST}", *lines)).encode() + b"\r\n"


def _challenge(request: Request, realm: str) -> bool:
    if request.asks("/token"):
        return False
    return request.reply(401, WWW_Authenticate=f'Bearer realm="{realm}",service="x",scope="repository:app:pull"')


def _zip(depth: int) -> bytes:
    # Of many members: compressing all of it takes longer than a client waits on a busy machine.
    body = gzip.compress(bytes(MANY >> 8), 9) * (1 << 8)
    for _ in range(depth - 1):
        body = gzip.compress(body, 9)
    return body


def _deflate() -> bytes:
    stream = zlib.compressobj(1)
    first, other = (stream.compress(bytes(MANY >> 8)) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + other * 255


#: Wrong replies to reads, by description, each with the expected error.
READS: dict[str, tuple[Callable[[Request], bool], str]] = {
    "says it failed, in colours": (
        lambda r: r.reply(400, b'{"errors": [{"code": "X", "message": "\\u001b]0;title\\u0007"}]}'),
        r"answered 400 Bad Request \(X:  \]0;title \)",
    ),
    "asks for a pause until the year 1": (
        lambda r: r.reply(429, Retry_After="Mon, 01 Jan 0001 00:00:00 -0000"),
        "answered 429",
    ),
    "asks for a pause of a day": (lambda r: r.reply(429, Retry_After="86400"), "answered 429"),
    "takes no token": (lambda r: _challenge(r, f"http://{r.registry.host}/token"), "answered 401"),
    "has a challenge of 60 KB": (lambda r: r.reply(401, WWW_Authenticate="Bearer " + "a" * 60000), "longer than 8192"),
    "has a realm that is a file": (lambda r: _challenge(r, "file:///etc/shadow"), "that is not HTTPS"),
    "has a realm elsewhere in the clear": (lambda r: _challenge(r, "http://127.0.0.2:9/token"), "that is not HTTPS"),
    "has a realm without a host": (lambda r: _challenge(r, "http:///token"), "that is not HTTPS"),
    "has no realm": (lambda r: r.reply(401, WWW_Authenticate="Bearer"), "that is not HTTPS"),
    "compresses": (lambda r: r.reply(200, _zip(1), Content_Encoding="gzip", Content_Type=MANIFEST), "compressed its"),
    "compresses twice": (
        lambda r: r.reply(200, _zip(2), Content_Encoding="gzip, gzip", Content_Type=MANIFEST),
        "compressed its",
    ),
    "deflates": (lambda r: r.reply(200, _deflate(), Content_Encoding="deflate"), "compressed its"),
    "sends without an end": (
        lambda r: r.drip(_headers("", ""), b"x" * (1 << 20)),
        "exceeds|is too slow",
    ),
    "drips its answer": (lambda r: r.drip(_headers("Content-Length: 1000000", ""), b" "), "is too slow"),
    "drips the sizes of chunks": (lambda r: r.drip(_headers("Transfer-Encoding: chunked", ""), b"0"), "is too slow"),
    "drips its headers": (lambda r: r.drip(_headers() + b"X-Endless: ", b"a"), "did not answer in time"),
    "drips its refusal": (
        lambda r: r.drip(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000000\r\n\r\n", b" "),
        "is too slow",
    ),
    "has a thousand headers": (
        lambda r: r.reply(200, **{f"X-{number}": "x" for number in range(1000)}),
        "the connection to .* failed",
    ),
    "redirects in a circle": (lambda r: r.reply(307, Location=r.path), "redirected more than 5 times"),
    "redirects to a file": (lambda r: r.reply(307, Location="file:///etc/shadow"), "redirected to file:///etc/shadow"),
    "redirects, and drips": (
        lambda r: r.drip(b"HTTP/1.1 307 X\r\nLocation: /v2/other\r\nContent-Length: 1000000\r\n\r\n", b" "),
        "redirected more than 5 times",
    ),
    "breaks off a manifest": (
        _on("/manifests/", lambda r: r.reply(200, r.manifest()[:50], size=1000, Content_Type=MANIFEST)),
        "the connection to .* failed",
    ),
    "has another manifest than it says": (
        _on(
            "/manifests/",
            lambda r: r.reply(200, r.manifest(), Content_Type=MANIFEST, Docker_Content_Digest=f"sha256:{'0' * 64}"),
        ),
        "the content does not match sha256:0000",
    ),
    "breaks off a config": (
        _on("/blobs/", lambda r: r.reply(200, r.blob(r.path.rpartition("/")[2])[:10], size=1000)),
        "the connection to .* failed",
    ),
    "changes a byte of a config": (
        _on("/blobs/", lambda r: r.reply(200, r.blob(r.path.rpartition("/")[2])[:-1] + b" ")),
        "the content does not match sha256:",
    ),
}
