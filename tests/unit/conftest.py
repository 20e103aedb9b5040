"""What tests of several rooms use: a container that is this machine, and HTTP servers to put in it."""

from __future__ import annotations

import copy
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from warmstart.engine.target import ExecResult, State


class LocalTarget:
    """A container that is this machine: connections go to 127.0.0.1, commands are programs here."""

    address = "127.0.0.1"

    def __init__(self) -> None:
        self.current = State()
        self.log: list[str] = []

    def connect(self, port: int, host: str | None, timeout_s: float) -> socket.socket:
        return socket.create_connection((host or self.address, port), timeout_s)

    def from_inside(self) -> LocalTarget:
        inside = copy.copy(self)
        inside.address = "localhost"
        return inside

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as late:
            raise TimeoutError from late
        return ExecResult(done.returncode, done.stdout, done.stderr)

    def state(self) -> State:
        return self.current

    def interrupt(self, pause_s: float = 0.0) -> None:
        pass

    def close_connections(self) -> int:
        return 0

    def move_host(self, old: str, new: str) -> None:
        pass

    def log_tail(self, lines: int) -> list[str]:
        return self.log[-lines:]


class Handler(BaseHTTPRequestHandler):
    """Answers with HTTP/1.1 and keeps its connections open, unless it is asked not to."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _serving(respond: Callable[[Handler], None]) -> Iterator[ThreadingHTTPServer]:
    class Responder(Handler):
        def do_GET(self) -> None:
            try:
                respond(self)
            except ConnectionError:
                self.close_connection = True

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Responder) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def local_target() -> LocalTarget:
    return LocalTarget()


@pytest.fixture
def serve_http() -> Iterator[Callable[[Callable[[Handler], None]], ThreadingHTTPServer]]:
    """Start an HTTP server that answers each request by calling the function it is given."""
    with ExitStack() as stack:
        yield lambda respond: stack.enter_context(_serving(respond))


@pytest.fixture
def serve_bytes() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Start a TCP server whose one connection is handled by the function it is given; its port."""
    with ExitStack() as stack:

        def start(handle: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def work() -> None:
                try:
                    connection, _ = listener.accept()
                    with connection:
                        handle(connection)
                except OSError:
                    return

            thread = threading.Thread(target=work)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return listener.getsockname()[1]

        yield start


@pytest.fixture
def unused_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
