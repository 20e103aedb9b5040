"""Undoing: always, and never in the place of the first error."""

from __future__ import annotations

import os
import signal
import time

import pytest

from warmstart.core.undo import call_to_the_end, undoing, undoing_on_error


def fail() -> None:
    raise ZeroDivisionError


def test_it_is_undone_at_the_end():
    done: list[str] = []
    with undoing(lambda: done.append("undone")):
        done.append("block")
    assert done == ["block", "undone"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit(143)])
def test_it_is_undone_after_an_error_which_stays_the_error(error):
    done: list[str] = []
    with pytest.raises(type(error)) as caught, undoing(lambda: done.append("undone")):
        raise error
    assert caught.value is error
    assert done == ["undone"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_a_failure_to_undo_does_not_hide_the_error(error, caplog):
    caplog.set_level("DEBUG")
    with pytest.raises(type(error)) as caught, undoing(fail):
        raise error
    assert caught.value is error
    assert caplog.messages == ["and then: "]


def test_a_failure_to_undo_is_the_error_otherwise():
    with pytest.raises(ZeroDivisionError), undoing(fail):
        pass


def test_all_of_several_are_undone():
    done: list[str] = []
    with pytest.raises(ZeroDivisionError), undoing(lambda: done.append("first")), undoing(fail):
        done.append("block")
    assert done == ["block", "first"]


def test_what_was_done_stays_unless_there_is_an_error():
    done: list[str] = []
    with undoing_on_error(lambda: done.append("undone")):
        done.append("block")
    assert done == ["block"]
    with pytest.raises(ValueError), undoing_on_error(lambda: done.append("undone")):  # noqa: PT011
        raise ValueError
    assert done == ["block", "undone"]


def test_a_call_to_the_end_gives_its_result_or_its_error():
    assert call_to_the_end(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_to_the_end(fail)


def test_an_interruption_waits_for_the_end_and_undoes_it():
    done: list[str] = []

    def work() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done.append("work")
        return "result"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_to_the_end(work, lambda result: done.append(f"undo {result}"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["work", "undo result"]


def test_what_takes_too_long_is_awaited_and_undone():
    done: list[str] = []

    def work() -> str:
        time.sleep(0.2)
        done.append("work")
        return "result"

    with pytest.raises(TimeoutError):
        call_to_the_end(work, lambda result: done.append(f"undo {result}"), 0.01)
    assert done == ["work", "undo result"]


def test_what_takes_too_long_and_fails_tells_why():
    def work() -> None:
        time.sleep(0.2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call_to_the_end(work, limit_s=0.01)
