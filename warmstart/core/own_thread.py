"""Do work in a thread of its own: what it changes about itself, such as its namespaces, ends with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


def run_in_own_thread(work: Callable[[], _Result]) -> _Result:
    """Do work in a new thread, and return its result or raise its error when the thread has ended."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()
