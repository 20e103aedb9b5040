"""HTTP with time limits on whole answers, not on the gap between bytes.

A registry that sends a byte now and then would otherwise hold a build for days. urllib3's limits are for one read of
the socket; here a timer shuts the socket down if a piece has not fully arrived in time. Redirects are not followed
(the caller chooses the host), and nothing is decompressed: digests are of the bytes as sent.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection

from warmstart import __version__
from warmstart.core import deadline

_CONNECT_TIMEOUT_S = 10.0
# urllib3 has one limit for connecting and for sending a piece, and a registry may pause to store what it got so far.
_SEND_TIMEOUT_S = 120.0
# Until the end of the headers. A registry may move a large blob to its place before it answers.
ANSWER_TIMEOUT_S = 300.0
#: Each piece of this size, and each short answer as a whole, must arrive within PIECE_TIMEOUT_S.
PIECE_BYTES = 1 << 20
PIECE_TIMEOUT_S = 120.0
#: Redirects followed per request.
MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class Session(requests.Session):
    """A session for registries; it trusts this machine's certificates in addition to those of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"User-Agent": f"warmstart/{__version__}", "Accept-Encoding": "identity"})
        # Without this, requests replaces our header with an entry of ~/.netrc.
        self.auth = lambda request: request
        for prefix in ("https://", "http://"):
            self.mount(prefix, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: redirects are not followed here."""


class _Limited:
    """A connection that must deliver all headers within ANSWER_TIMEOUT_S."""

    sock: Any

    def getresponse(self) -> Any:
        with deadline.within(ANSWER_TIMEOUT_S, self._shut):
            return super().getresponse()  # type: ignore[misc]

    def _shut(self) -> None:
        if self.sock is not None:
            self.sock.shutdown(2)


class _PlainConnection(_Limited, urllib3.connection.HTTPConnection):
    pass


class _TlsConnection(_Limited, urllib3.connection.HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(requests.adapters.HTTPAdapter):
    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _use_limits(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        _use_limits(manager)
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **options: Any) -> Any:
        host, pool = super().build_connection_pool_key_attributes(*args, **options)
        return host, {**pool, "ssl_context": self._tls} if host["scheme"] == "https" else pool

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        first_s = _SEND_TIMEOUT_S if request.body else _CONNECT_TIMEOUT_S
        return super().send(request, **{**options, "timeout": (first_s, ANSWER_TIMEOUT_S)})


def _use_limits(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}


def find_redirect(method: str, response: requests.Response) -> str | None:
    """Return the redirect target; None if there is none, or if it would send written data to another host.

    Raises:
        requests.RequestException: the target is not HTTP, or downgrades from HTTPS.
    """
    location = response.headers.get("Location")
    if response.status_code not in _REDIRECTS or not location:
        return None
    url = urljoin(response.url, location)
    allowed = ("https",) if response.url.startswith("https:") else ("https", "http")
    if urlsplit(url).scheme not in allowed:
        expected = " or ".join(allowed)
        raise requests.exceptions.InvalidURL(f"redirected to {url.partition('?')[0]}: not {expected}")
    reads = method in ("GET", "HEAD")
    if reads or (response.status_code in (307, 308) and is_same_host(url, response.url)):
        return url
    return None


def is_same_host(url: str, other: str) -> bool:
    """Return whether two URLs have the same host and port."""
    first, second = urlsplit(url), urlsplit(other)
    ports = {"http": 80, "https": 443}
    return (first.hostname, first.port or ports.get(first.scheme)) == (
        second.hostname,
        second.port or ports.get(second.scheme),
    )


def read_short(response: requests.Response, limit_bytes: int) -> bytes:
    """Read the body of an answer, at most one byte more than the limit, and release the connection.

    Raises:
        TooSlowError: it was not complete in time.
        requests.RequestException: the connection failed.
    """
    with response, _explained():
        return deadline.read_piece(response.raw, limit_bytes + 1, PIECE_TIMEOUT_S)


def read_pieces(response: requests.Response) -> Iterator[bytes]:
    """Read the body of an answer piece by piece; errors as `read_short`."""
    with _explained():
        yield from deadline.read_pieces(response.raw, PIECE_BYTES, PIECE_TIMEOUT_S)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise urllib3's errors of this block as those of requests."""
    try:
        yield
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
