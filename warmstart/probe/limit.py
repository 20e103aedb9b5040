"""What every action shares: its outcome, its time limit, and the way it connects."""

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

# How long a read may go on before it looks whether it has been cancelled.
_CANCEL_CHECK_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What came of one go of an action.

    Attributes:
        ok: whether it counts as a success.
        seen: what the container answered, in one line, such as `HTTP 503: {"status":"DOWN"}`.
    """

    ok: bool
    seen: str


class Cancelled(Exception):  # noqa: N818  # nothing went wrong: the caller wants no more of it
    """The caller gave up the action before it ended."""


class TimeLimit:
    """How long one go of an action may take, counted from the making of this object.

    Args:
        total_s: the limit for all of it.
        connect_s: a shorter limit for each connection; connections to a container that is being restored hang
            where others would be refused.
        cancel: ends a go that is waiting for an answer when it is set.
    """

    def __init__(self, total_s: float, *, connect_s: float = math.inf, cancel: threading.Event | None = None) -> None:
        self.total_s = total_s
        self._connect_s = connect_s
        self._end = time.monotonic() + total_s
        self._cancel = cancel

    def remaining_s(self) -> float:
        """Seconds that are left, more than none.

        Raises:
            TimeoutError: none are left.
            Cancelled: the caller gave up.
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
    """Reads a socket so that all reads together keep within one time limit.

    A socket's own time-out starts anew with each read: a server that sends a byte a second never exceeds it.
    """

    def __init__(self, sock: socket, limit: TimeLimit) -> None:
        self._sock = sock
        self._limit = limit

    def readable(self) -> bool:
        """It is for reading only."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` with what has arrived; 0 at the end. Raises what `TimeLimit.remaining_s` raises."""
        while True:
            self._sock.settimeout(min(self._limit.remaining_s(), _CANCEL_CHECK_S))
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue
