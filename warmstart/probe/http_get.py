"""Make an HTTP request as the kubelet does.

Source: pkg/probe/http/http.go and request.go of kubernetes/kubernetes, and Go's net/http underneath.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import cast
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from warmstart import __version__
from warmstart.engine.target import Target
from warmstart.probe.limit import LimitedReader, Outcome, TimeLimit
from warmstart.recipe.model import METHODS_WITH_BODY, HttpGet

MAX_BODY_BYTES = 10 * 1024
_MAX_REQUESTS = 10
_SHOWN_CHARS = 200
_CLOSE_GRACE_S = 1.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# After the others, a client asks for the new address with GET (RFC 9110, 15.4).
_REDIRECTS_OF_METHOD = frozenset({307, 308})
# Characters that a URL may contain unescaped (RFC 3986), and the percent sign of existing escapes.
_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"
# Headers that decide how the message is framed are ours; Host has its own rules.
_OWN_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding"})


def http_get(target: Target, action: HttpGet, limit: TimeLimit, *, drain: bool = False) -> Outcome:
    """Request a URL once; a status from 200 to 399 is a success.

    Redirects are followed on the same host only, ten requests in all; a redirect elsewhere is a success.
    Certificates are not verified. Every connection is closed.

    Args:
        target: the container.
        action: the request.
        limit: time limit, redirects included.
        drain: read all of the body, not only its first 10 KiB, and wait (a second at most) until the server has
            closed its end too, so that no socket of this connection is left in the container.

    Raises:
        OSError, http.client.HTTPException, ValueError: there was no answer, or it was not HTTP.
    """
    url = request_url(target, action)
    override = next((value for name, value in action.headers if name.lower() == "host"), "")
    host = override or urlsplit(url).netloc
    for _ in range(_MAX_REQUESTS):
        answer = _request(target, action, urlsplit(url), host, limit, drain=drain)
        if not answer.location:
            return answer.outcome
        following = urljoin(url, answer.location)
        if urlsplit(following).hostname != urlsplit(url).hostname:
            return answer.outcome
        # Go keeps an overridden Host only if the redirect is relative.
        relative = not urlsplit(answer.location).scheme
        host = override if override and relative else urlsplit(following).netloc
        action, url = replace(action, method=answer.method), following
    return Outcome(ok=False, seen=f"{answer.outcome.seen}, stopped after {_MAX_REQUESTS} redirects")


def request_url(target: Target, action: HttpGet) -> str:
    """Return the action's first URL, percent-encoded, without a fragment."""
    host = action.host or target.address
    netloc = f"[{host}]:{action.port}" if ":" in host else f"{host}:{action.port}"
    parts = urlsplit(quote("/" + action.path.removeprefix("/"), safe=_URL_CHARACTERS))
    return parts._replace(scheme=action.scheme.lower(), netloc=netloc, fragment="").geturl()


@dataclass(frozen=True)
class _Answer:
    """One response.

    Attributes:
        outcome: whether it is a success.
        location: the redirect target, percent-encoded, or empty.
        method: the method to ask for that with.
    """

    outcome: Outcome
    location: str
    method: str


class _LimitedSocket:
    """The part of a socket that http.client uses, under one time limit."""

    def __init__(self, sock: socket.socket, limit: TimeLimit) -> None:
        self._sock = sock
        self._limit = limit

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._limit.remaining_s())
        self._sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(LimitedReader(self._sock, self._limit))

    def close(self) -> None:
        """Do nothing: the opener of the connection closes it."""


def _request(target: Target, action: HttpGet, url: SplitResult, host: str, limit: TimeLimit, *, drain: bool) -> _Answer:
    with _connection(target, action, url, limit) as sock:
        wire = cast(socket.socket, _LimitedSocket(sock, limit))
        _send(wire, url, host, action)
        with http.client.HTTPResponse(wire, method=action.method) as response:
            response.begin()
            body = _read_body(response, whole=drain)
        if drain:
            _await_close(sock)
    location = response.getheader("Location", "") if response.status in _REDIRECTS else ""
    # http.client decodes headers as Latin-1, but servers send UTF-8.
    location = quote(location.encode("latin-1"), safe=_URL_CHARACTERS)
    outcome = Outcome(ok=200 <= response.status < 400, seen=f"HTTP {response.status}" + _shown(body))
    return _Answer(outcome, location, action.method if response.status in _REDIRECTS_OF_METHOD else "GET")


@contextmanager
def _connection(target: Target, action: HttpGet, url: SplitResult, limit: TimeLimit) -> Iterator[socket.socket]:
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{url.geturl()}: neither http nor https")
    port = url.port or (443 if url.scheme == "https" else 80)
    with limit.connect(target, port, action.host) as plain:
        if url.scheme == "http":
            yield plain
            return
        plain.settimeout(limit.remaining_s())
        with _tls_context().wrap_socket(plain, server_hostname=url.hostname) as encrypted:
            yield encrypted


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _send(wire: socket.socket, url: SplitResult, host: str, action: HttpGet) -> None:
    connection = http.client.HTTPConnection(host)
    connection.sock = wire
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    connection.putrequest(action.method, path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host.encode())
    for name, value in _headers(action):
        connection.putheader(name, value.encode())
    connection.putheader("Connection", "close")
    if action.method in METHODS_WITH_BODY:
        connection.putheader("Content-Length", "0")
    connection.endheaders()


def _headers(action: HttpGet) -> Iterator[tuple[str, str]]:
    """The defaults and the action's own headers; an empty value for a default drops it."""
    defaults = {"user-agent": f"warmstart/{__version__}", "accept": "*/*"}
    named = {name.lower() for name, _ in action.headers}
    for name, value in defaults.items():
        if name not in named:
            yield name.title(), value
    for name, value in action.headers:
        if name.lower() not in _OWN_HEADERS and (value or name.lower() not in defaults):
            yield name, value


def _read_body(response: http.client.HTTPResponse, *, whole: bool) -> bytes:
    body = response.read(MAX_BODY_BYTES)
    while whole and response.read(MAX_BODY_BYTES):
        pass
    # read(n) says nothing of a connection that ends before Content-Length.
    if response.length and (whole or len(body) < MAX_BODY_BYTES):
        raise http.client.IncompleteRead(body, response.length)
    return body


def _await_close(sock: socket.socket) -> None:
    reader = LimitedReader(sock, TimeLimit(_CLOSE_GRACE_S))
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while reader.read(MAX_BODY_BYTES):
            pass


def _shown(body: bytes) -> str:
    text = " ".join(body.decode(errors="replace").split())
    if len(text) > _SHOWN_CHARS:
        text = text[:_SHOWN_CHARS] + "…"
    return f": {text}" if text else ""
