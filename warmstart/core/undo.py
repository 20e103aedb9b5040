"""Undoing things so that what went wrong first is what is told."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


@contextlib.contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` at the end of the block, however it ends.

    When the block has failed, a failure of `undo` is only logged: most likely it has the same reason.
    """
    with undoing_on_error(undo):
        yield
    undo()


@contextlib.contextmanager
def undoing_on_error(undo: Callable[[], object]) -> Iterator[None]:
    """As `undoing`, but what was done stays when the block succeeds."""
    try:
        yield
    except BaseException:
        try:
            undo()
        except Exception as error:
            log.debug("and then: %s", error)
        raise


def call_to_the_end(
    call: Callable[[], T], undo: Callable[[T], object] = lambda _: None, limit_s: float | None = None
) -> T:
    """Call what must not be cut short.

    Where we are interrupted, or it takes longer than `limit_s`, its end is awaited all the same, and its result undone.

    Raises:
        TimeoutError: it took longer, and has not failed.
    """
    done = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    worker = threading.Thread(target=work, daemon=True)
    in_time = False
    try:
        worker.start()
        # Not `join`: once that has been interrupted, Python 3.11 takes the thread for one that has ended.
        in_time = done.wait(limit_s)
    finally:
        if not in_time:
            if worker.ident is not None:
                done.wait()
            _undo(results, undo)
    worker.join()
    if errors:
        raise errors[0]
    if not in_time:
        raise TimeoutError
    return results[0]


def _undo(results: Iterable[T], undo: Callable[[T], object]) -> None:
    for result in results:
        try:
            undo(result)
        except Exception as error:
            log.debug("and then: %s", error)
