"""Time limits for whole answers from the network; limits of sockets are for single reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import urllib3


class TooSlowError(Exception):
    """An answer arrived too slowly."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"its answer was not complete within {limit_s:g} s")


@contextlib.contextmanager
def within(limit_s: float, stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` from another thread if the block does not end in time; it must make the block fail.

    Raises:
        TimeoutError: the block took too long.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):
            stop()

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError(f"not done within {limit_s:g} s") from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"not done within {limit_s:g} s")


def read_piece(answer: urllib3.BaseHTTPResponse, size: int, limit_s: float) -> bytes:
    """Read the next `size` bytes of a body without decompressing them; fewer only at its end.

    Raises:
        TooSlowError: they did not arrive in time.
        urllib3.exceptions.HTTPError: the connection failed.
    """

    def hang_up() -> None:
        with contextlib.suppress(ValueError, RuntimeError):  # it is at its end already
            answer.shutdown()

    data = bytearray()
    try:
        with within(limit_s, hang_up):
            while len(data) < size and (piece := answer.read(size - len(data), decode_content=False)):
                data += piece
    except TimeoutError as late:
        raise TooSlowError(limit_s) from late
    return bytes(data)


def read_pieces(answer: urllib3.BaseHTTPResponse, size: int, limit_s: float) -> Iterator[bytes]:
    """Read a body in pieces of `size` bytes, each within the limit; errors as `read_piece`.

    A shorter piece is the last. To read on would take a thread for nothing.
    """
    piece = read_piece(answer, size, limit_s)
    while len(piece) == size:
        yield piece
        piece = read_piece(answer, size, limit_s)
    if piece:
        yield piece
