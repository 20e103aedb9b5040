from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart import __version__
from warmstart.probe.http_get import MAX_BODY_BYTES, request_url
from warmstart.probe.limit import Cancelled, TimeLimit
from warmstart.probe.perform import perform
from warmstart.recipe.model import HttpGet


def get(target, port, *, limit_s=5.0, drain=False, **action):
    return perform(target, HttpGet(port=port, **action), TimeLimit(limit_s), drain=drain)


@pytest.mark.parametrize(("status", "ok"), [(200, True), (204, True), (304, True), (399, True), (400, False)])
def test_a_status_from_200_to_399_is_a_success(local_target, serve_http, status, ok):
    port = serve_http(lambda handler: handler.answer(status)).server_port
    assert get(local_target, port).ok is ok


def test_the_answer_is_seen_in_one_short_line(local_target, serve_http):
    body = b'{"status":\n  "DOWN"}' + b"x" * 500
    port = serve_http(lambda handler: handler.answer(503, body)).server_port
    seen = get(local_target, port).seen
    assert seen.startswith('HTTP 503: {"status": "DOWN"}xxx')
    assert seen.endswith("…")
    assert len(seen) < 250


def requested(local_target, serve_http, **action):
    requests = []

    def respond(handler):
        requests.append((handler.path, handler.headers))
        handler.answer(200)

    port = serve_http(respond).server_port
    assert get(local_target, port, **action).ok
    [(path, headers)] = requests
    return port, path, headers


def test_the_request_is_that_of_the_kubelet(local_target, serve_http):
    port, path, headers = requested(local_target, serve_http)
    assert path == "/"
    assert dict(headers) == {
        "Host": f"127.0.0.1:{port}",
        "User-Agent": f"warmstart/{__version__}",
        "Accept": "*/*",
        "Connection": "close",
    }


def test_headers_of_the_recipe_take_the_place_of_the_defaults(local_target, serve_http):
    given_headers = (
        ("host", "shop.example.com"),
        ("user-agent", "mine"),
        ("Accept", ""),
        ("X-Name", "Zoë"),
        ("X-Name", "second"),
        ("Connection", "keep-alive"),
        ("Content-Length", "5"),
    )
    _, _, headers = requested(local_target, serve_http, headers=given_headers)
    assert headers.get_all("Host") == ["shop.example.com"]
    assert headers.get_all("User-Agent") == ["mine"]
    assert "Accept" not in headers
    assert headers.get_all("X-Name") == ["Zoë".encode().decode("latin-1"), "second"]
    assert headers.get_all("Connection") == ["close"]
    assert "Content-Length" not in headers


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/greeting?name=a b", "/greeting?name=a%20b"),
        ("/gr%C3%BC%C3%9Fe", "/gr%C3%BC%C3%9Fe"),
        ("/grüße#top", "/gr%C3%BC%C3%9Fe"),
        ("ready", "/ready"),
        ("", "/"),
        ("?deep=1", "/?deep=1"),
    ],
)
def test_the_path_is_sent_percent_encoded(local_target, serve_http, path, sent):
    assert requested(local_target, serve_http, path=path)[1] == sent


def test_an_ipv6_address_is_bracketed(local_target):
    local_target.address = "fd00::7"
    assert request_url(local_target, HttpGet(port=80, path="/x", scheme="HTTPS")) == "https://[fd00::7]:80/x"


def test_a_header_that_would_break_the_request_is_a_failure(local_target, serve_http):
    port = serve_http(lambda handler: handler.answer(200)).server_port
    outcome = get(local_target, port, headers=(("X-Bad", "a\r\nX-More: b"),))
    assert not outcome.ok
    assert "Invalid header value" in outcome.seen


def test_a_redirect_on_the_same_host_is_followed(local_target, serve_http):
    hosts = []

    def respond(handler):
        hosts.append((handler.path, handler.headers["Host"], handler.headers["X-Kept"]))
        if handler.path == "/":
            handler.answer(302, b"elsewhere", Location="deep/gr\u00fc\u00df?a=b c")
        elif handler.path == "/deep/gr%FC%DF?a=b%20c":
            handler.answer(307, Location=f"http://127.0.0.1:{handler.server.server_port}/last")
        else:
            handler.answer(503, b"not yet")

    port = serve_http(respond).server_port
    outcome = get(local_target, port, headers=(("Host", "shop.example.com"), ("X-Kept", "yes")))
    assert outcome.seen == "HTTP 503: not yet"
    assert hosts == [
        ("/", "shop.example.com", "yes"),
        ("/deep/gr%FC%DF?a=b%20c", "shop.example.com", "yes"),
        ("/last", f"127.0.0.1:{port}", "yes"),
    ]


@pytest.mark.parametrize("location", ["http://login.example.com/", "//login.example.com/", ""])
def test_a_redirect_elsewhere_is_a_success_and_not_followed(local_target, serve_http, location):
    port = serve_http(lambda handler: handler.answer(302, b"moved", Location=location)).server_port
    outcome = get(local_target, port)
    assert outcome.ok
    assert outcome.seen == "HTTP 302: moved"


def test_endless_redirects_are_a_failure_after_ten_requests(local_target, serve_http):
    paths = []

    def respond(handler):
        paths.append(handler.path)
        handler.answer(301, Location=f"/{len(paths)}")

    port = serve_http(respond).server_port
    outcome = get(local_target, port)
    assert not outcome.ok
    assert outcome.seen == "HTTP 301, stopped after 10 redirects"
    assert len(paths) == 10


@pytest.mark.parametrize(
    "drip",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX-A: ", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", id="body"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_server_that_drips_does_not_exceed_the_limit(local_target, serve_bytes, drip):
    def handle(connection):
        connection.sendall(drip)
        while True:
            connection.sendall(b"a" if drip else b"")
            if not drip and not connection.recv(1000):
                return
            time.sleep(0.02)

    start = time.monotonic()
    outcome = get(local_target, serve_bytes(handle), limit_s=0.3)
    assert time.monotonic() - start < 60
    assert not outcome.ok
    assert outcome.seen == "no answer within 0.3 s"


def test_a_request_that_waits_can_be_cancelled(local_target, serve_bytes):
    cancel = threading.Event()

    def handle(connection):
        connection.recv(1000)
        cancel.set()
        while connection.recv(1000):
            pass

    port = serve_bytes(handle)
    with pytest.raises(Cancelled):
        perform(local_target, HttpGet(port=port), TimeLimit(60, cancel=cancel))


def test_only_the_first_bytes_of_a_body_are_read(local_target, serve_bytes):
    def handle(connection):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"a" * MAX_BODY_BYTES)

    assert get(local_target, serve_bytes(handle)).ok


def test_draining_reads_all_and_leaves_the_server_no_connection(local_target, serve_bytes, monkeypatch):
    monkeypatch.setattr("warmstart.probe.http_get._CLOSE_GRACE_S", 60)
    closed = threading.Event()

    def handle(connection):
        connection.recv(1000)
        size = 10 * MAX_BODY_BYTES
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
        # It does not heed `Connection: close`, and ends only when the client does.
        assert connection.recv(1000) == b""
        time.sleep(0.1)
        closed.set()

    assert get(local_target, serve_bytes(handle), drain=True).ok
    assert closed.is_set()


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (b"", "connection closed without an answer"),
        (b"220 mail.example.com ESMTP\r\n", "not an HTTP response: '220 mail.example.com ESMTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "the answer ended early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "the answer ended early"),
    ],
)
def test_a_broken_answer_is_a_failure(local_target, serve_bytes, answer, seen):
    def handle(connection):
        connection.recv(1000)
        connection.sendall(answer)

    outcome = get(local_target, serve_bytes(handle))
    assert not outcome.ok
    assert outcome.seen.startswith(seen)


def test_a_refused_connection_is_a_failure(local_target, unused_port):
    outcome = get(local_target, unused_port)
    assert not outcome.ok
    assert outcome.seen == "connection refused"


class BytesTarget:
    """Answers every connection with the same bytes."""

    address = "127.0.0.1"

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connect(self, port, host, timeout_s):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(self._answer)
            theirs.shutdown(socket.SHUT_WR)
            theirs.setblocking(False)
        return ours


@given(
    start=st.sampled_from(
        [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: ",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]
    ),
    rest=st.binary(max_size=200),
)
def test_no_answer_makes_it_raise(start, rest):
    outcome = perform(BytesTarget(start + rest), HttpGet(port=80), TimeLimit(5))
    assert outcome.seen


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for a name that is not the server's, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=other.example.com", "-days", "1", "-keyout", folder / "key.pem", "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (folder / "key.pem").read_bytes())
    return pem


@pytest.fixture
def https_port(serve_http, certificate):
    server = serve_http(lambda handler: handler.answer(200, b"secret"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.server_port


@pytest.mark.parametrize("drain", [False, True])
def test_https_does_not_verify_the_certificate(local_target, https_port, drain):
    outcome = get(local_target, https_port, scheme="HTTPS", drain=drain)
    assert outcome.ok
    assert outcome.seen == "HTTP 200: secret"


def test_a_redirect_to_https_is_followed(local_target, serve_http, https_port):
    location = f"https://127.0.0.1:{https_port}/"
    port = serve_http(lambda handler: handler.answer(308, Location=location)).server_port
    assert get(local_target, port).seen == "HTTP 200: secret"


def test_https_to_a_server_without_tls_says_so(local_target, serve_bytes):
    def handle(connection):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    outcome = get(local_target, serve_bytes(handle), scheme="HTTPS")
    assert not outcome.ok
    assert outcome.seen.startswith("TLS: ")


def test_a_handshake_that_hangs_does_not_exceed_the_limit(local_target, serve_bytes):
    def handle(connection):
        while connection.recv(1000):
            pass

    assert get(local_target, serve_bytes(handle), scheme="HTTPS", limit_s=0.2).seen == "no answer within 0.2 s"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_step_has_another_method_and_an_empty_body(local_target, serve_http, method):
    seen = []

    def respond(handler):
        seen.append((handler.command, handler.headers["Content-Length"]))
        handler.answer(204)

    assert get(local_target, serve_http(respond).server_port, method=method).ok
    assert seen == [(method, "0")]


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
def test_a_redirect_says_whether_the_method_stays(local_target, serve_http, status, method):
    seen = []

    def respond(handler):
        seen.append((handler.command, handler.path))
        handler.answer(status, Location="/b") if handler.path == "/a" else handler.answer(200)

    assert get(local_target, serve_http(respond).server_port, path="/a", method="POST").ok
    assert seen == [("POST", "/a"), (method, "/b")]
