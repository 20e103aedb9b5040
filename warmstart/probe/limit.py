"""Outcome, time limit and connections of actions."""

from __future__ import annotations

import io
import math
import threading
import time
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING

from warmstart.engine.target import Target

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Interval at which a read checks for cancellation.
_CANCEL_CHECK_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attempt of an action.

    Attributes:
        ok: whether it counts as a success.
        seen: the container's answer in one line, such as `HTTP 503: {"status":"DOWN"}`.
    """

    ok: bool
    seen: str


class Cancelled(Exception):  # noqa: N818  # not a failure: the caller cancelled
    """The caller cancelled the action."""


class TimeLimit:
    """The time limit of one attempt of an action, starting when the object is created.

    Args:
        total_s: the total limit.
        connect_s: a shorter limit for each connection, since connections to a container during its restore hang
            instead of being refused.
        cancel: event that cancels a waiting attempt.
    """

    def __init__(self, total_s: float, *, connect_s: float = math.inf, cancel: threading.Event | None = None) -> None:
        self.total_s = total_s
        self._connect_s = connect_s
        self._end = time.monotonic() + total_s
        self._cancel = cancel

    def remaining_s(self) -> float:
        """Return the seconds left, always more than 0.

        Raises:
            TimeoutError: no time is left.
            Cancelled: the caller cancelled.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def connect(self, target: Target, port: int, host: str | None) -> socket:
        """Open a connection to `target` within the limit.

        Raises:
            OSError: it was refused, or there was no answer in time.
        """
        wait_s = min(self.remaining_s(), self._connect_s)
        try:
            return target.connect(port, host, wait_s)
        except TimeoutError as late:
            raise ConnectionError(f"no connection within {wait_s:.3g} s") from late


class LimitedReader(io.RawIOBase):
    """Reads a socket under one time limit for all reads together.

    A socket's own timeout restarts with each read: a server that sends a byte a second never exceeds it.
    """

    def __init__(self, sock: socket, limit: TimeLimit) -> None:
        self._sock = sock
        self._limit = limit

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with received data; 0 at the end. Raises like `TimeLimit.remaining_s`."""
        while True:
            self._sock.settimeout(min(self._limit.remaining_s(), _CANCEL_CHECK_S))
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue
