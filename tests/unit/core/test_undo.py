"""Undoing: always, and never in the place of the first error."""

from __future__ import annotations

import pytest

from warmstart.core.undo import undoing


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
