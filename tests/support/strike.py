"""Interrupt a build at a chosen moment.

`python strike.py SIGNAL STEP[:NOTE] DELAY_S PREFIX ARGUMENT...` runs warmstart with these arguments. It sends itself
the signal DELAY_S seconds after the step begins, or after this progress note of it. Its workspaces have the prefix.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from unittest.mock import patch

from warmstart.cli import main as cli
from warmstart.core import workspace
from warmstart.core.progress import SilentListener


class Striker(SilentListener):
    """A listener that calls `strike` when a step begins.

    With `noted`, it does so at a progress note of the step: the first one if True, or the one with this text.
    """

    def __init__(self, step: str, strike: Callable[[], None], *, noted: bool | str = False) -> None:
        self._step = step
        self._strike = strike
        self._noted = noted
        self._current = ""
        self.struck = False
        self.warnings: list[str] = []

    def begin(self, step: str) -> None:
        self._current = step
        if not self._noted:
            self._hit()

    def note(self, text: str) -> None:
        if self._noted in (True, text):
            self._hit()

    def _hit(self) -> None:
        if self._current == self._step and not self.struck:
            self.struck = True
            self._strike()


def main() -> None:
    name, moment, delay_s, prefix, *arguments = sys.argv[1:]
    step, _, note = moment.partition(":")
    number = signal.Signals[name]

    def send() -> None:
        timer = threading.Timer(float(delay_s), os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    # A shell that starts a program in the background lets it ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    with (
        patch.object(workspace, "PREFIX", prefix),
        patch.object(cli, "TerminalListener", lambda *_, **__: Striker(step, send, noted=note or False)),
    ):
        cli.main()


if __name__ == "__main__":
    main()
