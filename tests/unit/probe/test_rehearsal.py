"""What a restored application meets first is rehearsed: waits that have ended, and its probe."""

from __future__ import annotations

import pytest

from warmstart.core.errors import AppError, EngineError
from warmstart.probe.rehearsal import LONG_S, Rehearsal
from warmstart.recipe.model import Exec, HttpGet, Probe, Step


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


def test_connections_are_closed_as_often_as_waits_reach_their_ends(local_target):
    closed_at = []
    rehearsal = Rehearsal(local_target, None, closes=True)
    local_target.close_connections = lambda: closed_at.append(rehearsal.turns) or 2
    for _ in range(40):
        rehearsal()
    assert closed_at == [8, 16, 32]
    assert rehearsal.closed == 6


def test_an_error_after_that_says_so(local_target):
    local_target.close_connections = lambda: 2
    rehearsal = Rehearsal(local_target, None, closes=True)
    with pytest.raises(AppError) as caught, rehearsal.explaining():
        raise AppError("attempt 3 failed", details=("a line",), hint="fix it")
    assert caught.value.details == ("a line",)
    for _ in range(8):
        rehearsal()
    with pytest.raises(AppError, match="attempt 3 failed") as caught, rehearsal.explaining():
        raise AppError("attempt 3 failed", details=("a line",), hint="fix it")
    first, second = caught.value.details
    assert first.startswith("2 of its connections had been closed")
    assert (second, caught.value.hint) == ("a line", "fix it")


def test_none_is_closed_if_the_restored_application_keeps_none(local_target):
    local_target.close_connections = lambda: 1 / 0
    rehearsal = Rehearsal(local_target, None)
    for _ in range(8):
        rehearsal()


def test_requests_meet_each_closed_connection_before_they_must_succeed(local_target, serve_http, tmp_path):
    asked = []

    def refuse(handler) -> None:
        asked.append((handler.path, handler.headers["Host"]))
        handler.answer(500)

    port = serve_http(refuse).server_port
    command = Exec(("touch", str(tmp_path / "run")))
    steps = [Step(HttpGet(port, path="/a")), Step(command), Step(HttpGet(port, path="/b"))]
    rehearsal = Rehearsal(local_target, None, steps, closes=True, turns=7)
    local_target.close_connections = lambda: 3
    rehearsal()
    from_outside = [path for path, host in asked if host == f"127.0.0.1:{port}"]
    assert from_outside == ["/a", "/b"] * 3
    assert not (tmp_path / "run").exists()


def test_requests_come_from_inside_of_the_pod_as_those_of_the_launcher_do(local_target, serve_http):
    hosts = []

    def refuse(handler) -> None:
        hosts.append(handler.headers["Host"])
        handler.answer(400)

    port = serve_http(refuse).server_port
    rehearsal = Rehearsal(local_target, None, [Step(HttpGet(port))])
    rehearsal()
    rehearsal()
    assert hosts == [f"localhost:{port}"] * 2


def test_something_is_done_once_when_compilers_know_the_application(local_target):
    done_at = []
    rehearsal = Rehearsal(local_target, None, once=lambda: done_at.append(rehearsal.turns) or 1.5)
    assert sum(rehearsal() for _ in range(70)) == 1.5
    assert done_at == [32]
