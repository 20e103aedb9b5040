"""Several things at once: what is told of them, and how all of them end when one of those who wait does."""

from __future__ import annotations

import threading
import time

import pytest

from warmstart.core.progress import Progress, SilentListener
from warmstart.core.workers import StoppedError, WorkerPool

LIMIT_S = 60


class Notes(SilentListener):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_results_and_errors_are_those_of_the_work():
    with WorkerPool(Progress(SilentListener()), 2, at_once=2) as crew:
        good, bad = crew.submit("good", lambda _: 7), crew.submit("bad", lambda _: 1 // 0)
    assert good.result() == 7
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_it_is_told_what_each_is_at():
    listener, both = Notes(), threading.Barrier(2)

    def work(steps: Progress) -> None:
        with steps.step("image"):
            both.wait(LIMIT_S)
        with steps.step("restore"):
            both.wait(LIMIT_S)

    with WorkerPool(Progress(listener), 2, at_once=2) as crew:
        crew.submit("one", work)
        crew.submit("two", work)
    assert "0 of 2  one: image, two: image" in listener.notes or "0 of 2  two: image, one: image" in listener.notes
    assert listener.notes[-1] == "2 of 2  "


def test_a_warning_names_who_has_it():
    listener = Notes()
    with WorkerPool(Progress(listener), 1, at_once=1) as crew:
        crew.submit("one", lambda steps: steps.warn("is late"))
    assert listener.warnings == ["one: is late"]


def note(steps: Progress) -> None:
    steps.note("still at it")


def step(steps: Progress) -> None:
    with steps.step("again"):
        pass


@pytest.mark.parametrize("go_on", [note, step])
def test_an_interruption_ends_what_has_begun_and_begins_nothing(go_on):
    begun, undone = threading.Event(), threading.Event()

    def work(steps: Progress) -> None:
        try:
            with steps.step("wait"):
                begun.set()
                while True:
                    time.sleep(0.01)
                    go_on(steps)
        finally:
            undone.set()

    never: list[str] = []
    with pytest.raises(KeyboardInterrupt), WorkerPool(Progress(SilentListener()), 2, at_once=1) as crew:  # noqa: PT012
        first = crew.submit("first", work)
        second = crew.submit("second", lambda _: never.append("begun"))
        assert begun.wait(LIMIT_S)
        raise KeyboardInterrupt
    assert undone.is_set()
    assert isinstance(first.exception(), StoppedError)
    assert second.cancelled()
    assert never == []
