"""Report the steps of a pipeline and their durations.

Pipelines do not print. A listener, such as that of the command line, decides what to show.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

log = logging.getLogger(__name__)


class ProgressListener(Protocol):
    """Receives the events of a pipeline, in the pipeline's thread."""

    def begin(self, step: str) -> None:
        """A step begins."""
        ...

    def note(self, text: str) -> None:
        """The current step made progress."""
        ...

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """The step ended, with or without success."""
        ...

    def warn(self, text: str) -> None:
        """Warn the user, now and at the end."""
        ...


class SilentListener:
    """A listener that ignores everything."""

    def begin(self, step: str) -> None:
        """See `ProgressListener`."""

    def note(self, text: str) -> None:
        """See `ProgressListener`."""

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """See `ProgressListener`."""

    def warn(self, text: str) -> None:
        """See `ProgressListener`."""


# The progress whose step, or whose `listen` block, runs in this thread.
_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def report_warning(text: str) -> None:
    """Warn the user from code that has no `Progress` at hand; logged if none listens in this thread."""
    progress = _current.get()
    if progress is None:
        log.warning("%s", text)
    else:
        progress.warn(text)


class Progress:
    """The steps of one run.

    Attributes:
        durations_s: seconds of each successful step, in order; steps with the same name are added up.
        warnings: all warnings, in order.
    """

    def __init__(self, listener: ProgressListener) -> None:
        self._listener = listener
        self.durations_s: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run one step, for the length of a `with` block."""
        self._listener.begin(name)
        start = time.monotonic()
        ok = False
        try:
            with self.listen():
                yield
            ok = True
            self.durations_s[name] = self.durations_s.get(name, 0.0) + time.monotonic() - start
        finally:
            self._listener.end(name, time.monotonic() - start, ok)

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Receive what `report_warning` reports in this thread, for the length of a `with` block."""
        outer = _current.get()
        _current.set(self)
        try:
            yield
        finally:
            _current.set(outer)

    def note(self, text: str) -> None:
        """Report progress of the current step."""
        self._listener.note(text)

    def warn(self, text: str) -> None:
        """Warn the user without stopping the run."""
        self.warnings.append(text)
        self._listener.warn(text)
