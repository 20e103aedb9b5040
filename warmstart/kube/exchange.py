"""Requests of an API server or a kubelet, and their answers, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import urllib3

from warmstart.core.deadline import TooSlowError, read_pieces
from warmstart.core.errors import ClusterError
from warmstart.kube.answer import Answer, parse_answer
from warmstart.kube.refusal import make_refusal

CONNECT_S = 10.0
#: An object has 1.5 MiB at most, since etcd takes no larger one, and lists come in pages.
ANSWER_LIMIT_BYTES = 256 << 20
_REFUSAL_LIMIT_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20


def ask(
    pool: Any, whom: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
) -> Answer:
    """Make a request with a JSON answer.

    Args:
        pool: connections of urllib3.
        whom: the server in messages, such as `the API server`.
        method: of HTTP.
        url: of the request.
        headers: to send.
        body: to send.
        timeout_s: for how long nothing may come, and no whole MiB of the answer.

    Raises:
        RefusedError: the server refused.
        ClusterError: it could not be reached, did not answer, or did not answer with JSON.
    """
    data = fetch(pool, method, url, headers, body, timeout_s, ANSWER_LIMIT_BYTES)
    return parse_answer(data, f"{whom}'s answer to {method} {urllib3.util.parse_url(url).path}")


def fetch(
    pool: Any, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float, limit_bytes: int
) -> bytes:
    """Make a request as in `ask`, and return the raw answer of at most `limit_bytes`."""
    what = f"{method} {urllib3.util.parse_url(url).path}"
    timeout = urllib3.Timeout(connect=CONNECT_S, read=timeout_s)
    try:
        answer = pool.request(
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            retries=False,
            # A redirect would send our credentials to another server.
            redirect=False,
            preload_content=False,
        )
        good = 200 <= answer.status < 300
        data = _read(answer, limit_bytes if good else _REFUSAL_LIMIT_BYTES, timeout_s)
    except TooSlowError as error:
        raise ClusterError(f"{what}: {error}") from error
    except urllib3.exceptions.ReadTimeoutError as error:
        raise ClusterError(f"{what}: no answer within {timeout_s:g} s") from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(f"{what}: the connection failed: {_last_reason(error)}") from error
    if not good:
        raise make_refusal(answer.status, data.decode(errors="replace"), what)
    if len(data) > limit_bytes:
        raise ClusterError(f"{what}: the answer is longer than {limit_bytes} bytes")
    return data


def _read(answer: Any, limit_bytes: int, timeout_s: float) -> bytes:
    """Return the body, cut after the limit."""
    data = bytearray()
    try:
        for piece in read_pieces(answer, _PIECE_BYTES, timeout_s):
            data += piece
            if len(data) > limit_bytes:
                break
    finally:
        answer.close()
    return bytes(data)


def _last_reason(error: Exception) -> str:
    """Return the innermost reason; urllib3 wraps most errors twice."""
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(">: ")[2] or type(error).__name__
