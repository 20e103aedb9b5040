"""End in order when the user or the system asks for it, wherever in the program that happens.

Python runs the handler of a signal between two instructions of the main thread, and what the handler raises goes on
from there. In a destructor, or in the callback of a weak reference, it goes nowhere: Python reports it to
`sys.unraisablehook`, and the program continues. Each `threading.Thread` has such a callback, so a program that starts
many of them would miss signals.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

TERMINATED = 143
#: Seconds until a signal that was missed is raised again; the destructor has ended by then.
REPEAT_S = 0.01

_SIGNALS: dict[type[BaseException], signal.Signals] = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}


def end_in_order() -> None:
    """Have SIGTERM end this process as Ctrl-C does, cleaning up on the way, and let neither be missed."""
    signal.signal(signal.SIGTERM, _terminate)
    report = sys.unraisablehook

    def repeat(missed: sys.UnraisableHookArgs) -> None:
        number = _SIGNALS.get(missed.exc_type)
        if number is None:
            report(missed)
            return
        # Not by a thread: what was interrupted here may hold the locks that one needs to start.
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, REPEAT_S)

    sys.unraisablehook = repeat


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
