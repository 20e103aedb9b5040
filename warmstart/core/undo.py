"""Roll back changes so that the first error is the one that is reported."""

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

    If the block failed, a failure of `undo` is only logged: most likely it has the same reason.
    """
    with undoing_on_error(undo):
        yield
    undo()


@contextlib.contextmanager
def undoing_on_error(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` at the end of the block if it fails."""
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
    """Make a call that must not be cut short.

    If this process is interrupted, or the call takes longer than `limit_s`, wait for its end and undo its result.

    Raises:
        TimeoutError: the call took longer, and did not fail.
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
        # Not `join`: after an interruption of that, Python 3.11 believes that the thread has ended.
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
