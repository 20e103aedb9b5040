"""Do several things at once, each in a thread, as one step of a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from warmstart.core.progress import Progress

T = TypeVar("T")


class StoppedError(Exception):
    """The pipeline has ended, and its threads must end too."""


class WorkerPool:
    """Worker threads, for the length of a `with` block. The current step's note shows the step of each.

    If the block fails, queued tasks are dropped, and running ones get a StoppedError at their next step or note. The
    pool waits for them, so that they can roll back.

    Args:
        progress: the pipeline's progress reporter.
        total: number of tasks.
        at_once: number of tasks at a time.
    """

    def __init__(self, progress: Progress, total: int, at_once: int) -> None:
        self._progress = progress
        self._total = total
        self._pool = ThreadPoolExecutor(at_once)
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}
        self._done = 0
        self._stopped = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self.stop()
        self._pool.shutdown(cancel_futures=kind is not None)

    def submit(self, name: str, work: Callable[[Progress], T]) -> Future[T]:
        """Queue a named task; `work` is called with a progress reporter of its own."""
        return self._pool.submit(self._work, name, work)

    def stop(self) -> None:
        """End running tasks at their next step or note."""
        self._stopped = True

    def _work(self, name: str, work: Callable[[Progress], T]) -> T:
        try:
            return work(Progress(_Member(self, name)))
        finally:
            with self._lock:
                self._doing.pop(name, None)
                self._done += 1
            self._report()

    def check(self) -> None:
        """Raise StoppedError in the calling thread if the pool has stopped."""
        if self._stopped:
            raise StoppedError

    def begin(self, name: str, step: str) -> None:
        """A task began a step."""
        with self._lock:
            self._doing[name] = step
        self._report()

    def warn(self, name: str, text: str) -> None:
        """A task warns the user."""
        with self._lock:
            self._progress.warn(f"{name}: {text}")

    def _report(self) -> None:
        with self._lock:
            doing = ", ".join(f"{name}: {step}" for name, step in self._doing.items())
            self._progress.note(f"{self._done} of {self._total}  {doing}")


class _Member:
    """The listener of one task."""

    def __init__(self, pool: WorkerPool, name: str) -> None:
        self._pool = pool
        self._name = name

    def begin(self, step: str) -> None:
        self._pool.check()
        self._pool.begin(self._name, step)

    def note(self, _text: str) -> None:
        self._pool.check()

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """Ignore it: the next step or the end of the task is reported."""

    def warn(self, text: str) -> None:
        self._pool.warn(self._name, text)
