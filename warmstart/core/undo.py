"""Undoing things so that what went wrong first is what is told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)


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
