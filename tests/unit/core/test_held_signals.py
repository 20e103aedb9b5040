"""Signals that are held back: their handlers run at the end, and as they were."""

import signal
import threading
from collections.abc import Iterator

import pytest

from warmstart.core.held_signals import holding_signals


@pytest.fixture(autouse=True)
def handled() -> Iterator[list[str]]:
    """Handle SIGTERM by adding to a list."""
    said = []
    before = signal.signal(signal.SIGTERM, lambda *_: said.append("terminated"))
    yield said
    signal.signal(signal.SIGTERM, before)


def test_handlers_run_at_the_end_of_the_block(handled):
    with holding_signals():
        signal.raise_signal(signal.SIGTERM)
        assert handled == []
    assert handled == ["terminated"]
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["terminated"] * 2


def test_handlers_run_once_they_are_released(handled):
    with holding_signals() as release:
        signal.raise_signal(signal.SIGTERM)
        release()
        assert handled == ["terminated"]
        signal.raise_signal(signal.SIGTERM)
        assert handled == ["terminated"] * 2
    assert handled == ["terminated"] * 2


def test_a_handler_that_was_set_after_the_release_stays(handled):
    with holding_signals() as release:
        release()
        signal.signal(signal.SIGTERM, lambda *_: handled.append("another"))
    signal.raise_signal(signal.SIGTERM)
    assert handled == ["another"]


def test_a_block_may_end_in_another_thread_after_the_release(handled):
    ended = []
    block = holding_signals()
    block.__enter__()()
    thread = threading.Thread(target=lambda: ended.append(block.__exit__(None, None, None)))
    thread.start()
    thread.join()
    assert len(ended) == 1


def test_what_a_handler_raises_goes_on_from_the_release():
    with pytest.raises(KeyboardInterrupt), holding_signals() as release:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            release()
        signal.raise_signal(signal.SIGINT)


def test_an_error_of_the_block_comes_first(handled):
    with pytest.raises(ZeroDivisionError), holding_signals():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        _ = 1 / 0
    assert handled == ["terminated"]


def test_a_signal_that_is_ignored_stays_so(handled):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with holding_signals():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert handled == []


def test_other_threads_hold_nothing_back():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with holding_signals() as release:
            seen.append(signal.getsignal(signal.SIGTERM))
            release()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
