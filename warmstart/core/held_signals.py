"""Hold back SIGINT and SIGTERM while something must not be cut short, such as the start of a program.

Python runs the handler of a signal between two instructions of the main thread. `subprocess.Popen` has started its
program before it returns. If a handler raised an exception meanwhile, nobody would know the program.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def holding_signals() -> Iterator[Callable[[], None]]:
    """Hold back the handlers of signals for the length of a `with` block, and call them at its end.

    Yields:
        A function that calls them earlier and passes their exceptions on. It holds back nothing more.
    """
    held: dict[int, _Handler] = {}
    came: list[tuple[_Handler, int]] = []

    def release() -> None:
        for number, handler in list(held.items()):
            signal.signal(number, handler)
            # Once: the block may end in another thread, or after somebody has set another handler.
            del held[number]
        while came:
            handler, number = came.pop(0)
            handler(number, None)

    def hold(handler: _Handler) -> _Handler:
        return lambda number, _: came.append((handler, number))

    try:
        # In other threads, no handler runs.
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    held[number] = handler
                    signal.signal(number, hold(handler))
        yield release
    finally:
        release()
