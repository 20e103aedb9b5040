"""What a restored application meets first is rehearsed: waits that have ended, and its probe."""

from __future__ import annotations

from warmstart.core.errors import EngineError
from warmstart.probe.rehearsal import LONG_S, Rehearsal
from warmstart.recipe.model import HttpGet, Probe


def rehearse(target, probe, turns) -> list[float]:
    """Rehearse so often, and return the lengths of the interruptions."""
    pauses_s: list[float] = []
    target.interrupt = pauses_s.append
    rehearsal = Rehearsal(target, probe)
    for _ in range(turns):
        rehearsal()
    return pauses_s


def test_waits_reach_their_ends_ever_less_often(local_target):
    pauses_s = rehearse(local_target, None, 100)
    assert len(pauses_s) == 100
    assert [turn for turn, pause_s in enumerate(pauses_s, 1) if pause_s == LONG_S] == [8, 16, 32, 64]
    assert set(pauses_s) == {0.0, LONG_S}


def test_the_probe_is_asked_each_time_whatever_it_answers(local_target, serve_http):
    asked = []

    def refuse(handler) -> None:
        asked.append(handler.path)
        handler.answer(503)

    rehearse(local_target, Probe(HttpGet(serve_http(refuse).server_port, path="/ready")), 3)
    assert asked == ["/ready"] * 3


def test_a_container_that_has_ended_is_left_to_the_next_attempt(local_target):
    def interrupt(pause_s: float) -> None:
        raise EngineError("it has ended")

    local_target.interrupt = interrupt
    Rehearsal(local_target, None)()
