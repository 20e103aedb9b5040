"""Perform any action once; failures become its outcome."""

from __future__ import annotations

import http.client
import shlex
import ssl

from warmstart.core.errors import EngineError
from warmstart.engine.target import Target
from warmstart.probe.grpc_health import check_grpc_health
from warmstart.probe.http_get import http_get, request_url
from warmstart.probe.limit import Outcome, TimeLimit
from warmstart.recipe.model import Action, Exec, Grpc, HttpGet, TcpSocket

_SHOWN_LINES = 3


def perform(target: Target, action: Action, limit: TimeLimit, *, drain: bool = False) -> Outcome:
    """Perform an action once and return the container's answer.

    Args:
        target: the container.
        action: the action.
        limit: time limit; exceeding it is a failure.
        drain: for HTTP, see `warmstart.probe.http_get.http_get`.

    Raises:
        Cancelled: the caller cancelled.
    """
    try:
        return _carry_out(target, action, limit, drain=drain)
    except TimeoutError:
        return Outcome(ok=False, seen=f"no answer within {limit.total_s:g} s")
    except (OSError, http.client.HTTPException, ValueError, EngineError) as error:
        return Outcome(ok=False, seen=_explain(error))


def describe(target: Target, action: Action) -> str:
    """Describe the action in one line, such as `httpGet http://10.88.0.7:8080/ready`."""
    match action:
        case HttpGet():
            method = "" if action.method == "GET" else f"{action.method} "
            return f"httpGet {method}{request_url(target, action)}"
        case TcpSocket():
            return f"tcpSocket {action.host or target.address} port {action.port}"
        case Exec():
            return f"exec {shlex.join(action.written or action.command)}"
        case Grpc():
            return f"grpc {target.address} port {action.port}, service {action.service!r}"


def _carry_out(target: Target, action: Action, limit: TimeLimit, *, drain: bool) -> Outcome:
    match action:
        case HttpGet():
            return http_get(target, action, limit, drain=drain)
        case TcpSocket():
            with limit.connect(target, action.port, action.host):
                return Outcome(ok=True, seen="connected")
        case Exec():
            return _exec(target, action, limit)
        case Grpc():
            return check_grpc_health(target, action, limit)


def _exec(target: Target, action: Exec, limit: TimeLimit) -> Outcome:
    result = target.exec(action.command, limit.remaining_s())
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-_SHOWN_LINES:]
    written = f": {' | '.join(line.strip() for line in lines)}" if lines else ""
    return Outcome(ok=result.exit_code == 0, seen=f"exit code {result.exit_code}{written}")


def _explain(error: Exception) -> str:
    match error:
        case EngineError():
            return error.brief
        case ConnectionRefusedError():
            return "connection refused"
        case http.client.RemoteDisconnected():
            return "connection closed without an answer"
        case http.client.BadStatusLine():
            return f"not an HTTP response: {str(error)[:80]!r}"
        case http.client.IncompleteRead():
            return "the answer ended early"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case OSError() if error.strerror:
            return error.strerror.lower()
        case _:
            return str(error) or type(error).__name__
