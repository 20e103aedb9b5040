"""Several things done at once, each in a thread, as one step of a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from warmstart.core.progress import Progress

T = TypeVar("T")


class StoppedError(Exception):
    """The pipeline has ended: what a thread does for it is not wanted any more."""


class WorkerPool:
    """Threads, for the length of a `with` block; what each of them is at is the note of the pipeline's current step.

    When the block fails, what has not begun will not, and what has begun is ended by an error at its next step or note;
    that is awaited, so that all is undone that has to be.

    Args:
        steps: of the pipeline.
        total: how many things there are to do.
        at_once: how many of them at a time.
    """

    def __init__(self, progress: Progress, total: int, at_once: int) -> None:
        self._steps = progress
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
        """Have something done, which has this name; `work` is called with steps of its own."""
        return self._pool.submit(self._work, name, work)

    def stop(self) -> None:
        """Have what has begun end soon."""
        self._stopped = True

    def _work(self, name: str, work: Callable[[Progress], T]) -> T:
        try:
            return work(Progress(_Member(self, name)))
        finally:
            with self._lock:
                self._doing.pop(name, None)
                self._done += 1
            self._tell()

    def check(self) -> None:
        """End the thread that calls, when the crew has stopped."""
        if self._stopped:
            raise StoppedError

    def begin(self, name: str, step: str) -> None:
        """A thread is at a new step."""
        with self._lock:
            self._doing[name] = step
        self._tell()

    def warn(self, name: str, text: str) -> None:
        """A thread has something to say."""
        with self._lock:
            self._steps.warn(f"{name}: {text}")

    def _tell(self) -> None:
        with self._lock:
            doing = ", ".join(f"{name}: {step}" for name, step in self._doing.items())
            self._steps.note(f"{self._done} of {self._total}  {doing}")


class _Member:
    """The listener of one thread."""

    def __init__(self, crew: WorkerPool, name: str) -> None:
        self._crew = crew
        self._name = name

    def begin(self, step: str) -> None:
        self._crew.check()
        self._crew.begin(self._name, step)

    def note(self, _text: str) -> None:
        self._crew.check()

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """What comes next is told, or that all is done."""

    def warn(self, text: str) -> None:
        self._crew.warn(self._name, text)
