from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import Activity, ExecResult, State
from warmstart.probe.warmup import WarmupProgress, run_steps
from warmstart.recipe.model import Exec, HttpGet, Step


@pytest.fixture(autouse=True)
def no_thread_outlives():
    yield
    assert not [thread for thread in threading.enumerate() if "(work)" in thread.name and thread.daemon]


class Counted:
    """Answers GETs with 200 and counts them, and how many were under way at once."""

    def __init__(self) -> None:
        self.paths = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, handler):
        with self._lock:
            self.paths.append(handler.path)
            self._now += 1
            self.most = max(self.most, self._now)
        self.respond(handler)
        with self._lock:
            self._now -= 1

    def respond(self, handler):
        handler.answer(200, b"warm")


def test_steps_are_done_in_order_and_as_often_as_they_say(local_target, serve_http, tmp_path):
    requests = Counted()
    port = serve_http(requests).server_port
    file = tmp_path / "gc"
    steps = [
        Step(HttpGet(port, path="/first"), repeat=3),
        Step(Exec(("sh", "-c", f"echo done >> {file}")), repeat=2),
        Step(HttpGet(port, path="/last")),
    ]
    results = run_steps(local_target, steps)
    assert requests.paths == ["/first"] * 3 + ["/last"]
    assert file.read_text() == "done\ndone\n"
    assert [result.step for result in results] == steps
    assert [len(result.goes_s) for result in results] == [3, 2, 1]
    assert requests.most == 1


def test_no_steps_are_no_results(local_target):
    assert run_steps(local_target, ()) == ()


@pytest.mark.parametrize(("repeat", "concurrency", "most"), [(20, 4, 4), (2, 8, 2)])
def test_goes_are_under_way_at_once_but_not_more_than_asked(local_target, serve_http, repeat, concurrency, most):
    requests = Counted()
    together = threading.Barrier(most)

    def respond(handler):
        if len(requests.paths) <= most:
            together.wait(60)
        handler.answer(200)

    requests.respond = respond
    port = serve_http(requests).server_port
    [result] = run_steps(local_target, [Step(HttpGet(port), repeat=repeat, concurrency=concurrency)])
    assert len(requests.paths) == len(result.goes_s) == repeat
    assert requests.most == most


@pytest.mark.parametrize("concurrency", [1, 3])
def test_progress_is_told_after_each_go_in_the_callers_thread(local_target, concurrency):
    step = Step(Exec(("true",)), repeat=3, concurrency=concurrency)
    told = []
    run_steps(
        local_target,
        [step, step],
        on_progress=lambda progress: told.append((progress, threading.current_thread())),
    )
    assert [progress for progress, _ in told] == [
        WarmupProgress(index, step, done) for index in (0, 1) for done in (1, 2, 3)
    ]
    assert {thread for _, thread in told} == {threading.current_thread()}


def test_a_failing_request_fails_the_build_and_says_which(local_target, serve_http):
    requests = Counted()
    requests.respond = lambda handler: (
        handler.answer(200) if len(requests.paths) < 3 else handler.answer(500, b"no such table: greeting")
    )
    port = serve_http(requests).server_port
    local_target.log = ["java.sql.SQLException"]
    with pytest.raises(AppError) as caught:
        run_steps(local_target, [Step(Exec(("true",))), Step(HttpGet(port, path="/g"), repeat=10)])
    assert caught.value.brief == (
        f"warmup[1], httpGet http://127.0.0.1:{port}/g: attempt 3 of 10 failed: HTTP 500: no such table: greeting"
    )
    assert caught.value.details == ("the end of its log:", "  java.sql.SQLException")
    assert len(requests.paths) == 3


def test_a_failing_command_fails_the_build_with_what_it_wrote(local_target):
    step = Step(Exec(("sh", "-c", "echo 1: not attached >&2; exit 4")))
    with pytest.raises(AppError) as caught:
        run_steps(local_target, [step], field="beforeCheckpoint")
    assert caught.value.brief.startswith("beforeCheckpoint[0], exec sh -c ")
    assert caught.value.brief.endswith("attempt 1 of 1 failed: exit code 4: 1: not attached")


def test_a_go_that_takes_too_long_fails(local_target, serve_bytes):
    port = serve_bytes(lambda connection: connection.recv(1000) and connection.recv(1000))
    with pytest.raises(AppError, match=r"no answer within 0\.2 s"):
        run_steps(local_target, [Step(HttpGet(port), timeout_s=0.2)])


def test_a_container_that_dies_of_a_step_is_reported_as_such(local_target, serve_bytes, monkeypatch):
    # Its connections close a moment before the runtime notices.
    states = iter([State(), State(137, "OOMKilled")])
    monkeypatch.setattr(local_target, "state", lambda: next(states))
    with pytest.raises(AppError) as caught:
        run_steps(local_target, [Step(HttpGet(serve_bytes(lambda connection: connection.recv(1000))))])
    assert caught.value.brief.endswith("; the container exited with exit code 137 (OOMKilled)")
    assert caught.value.hint == "raise container.resources.limits.memory"


def test_a_failure_ends_the_goes_that_are_under_way(local_target, serve_http):
    waiting = threading.Event()
    over = threading.Event()

    def respond(handler):
        if not waiting.is_set():
            waiting.set()
            over.wait(60)
        else:
            handler.answer(404)

    port = serve_http(respond).server_port
    start = time.monotonic()
    with pytest.raises(AppError, match="HTTP 404"):
        run_steps(local_target, [Step(HttpGet(port), repeat=100, concurrency=2, timeout_s=60)])
    over.set()
    assert time.monotonic() - start < 30


def test_an_unexpected_error_of_a_thread_is_not_swallowed(local_target, monkeypatch):
    def fail(command, timeout_s):
        raise ZeroDivisionError

    monkeypatch.setattr(local_target, "exec", fail)
    with pytest.raises(ZeroDivisionError):
        run_steps(local_target, [Step(Exec(("true",)), repeat=5, concurrency=2)])


@pytest.mark.parametrize("concurrency", [1, 4])
def test_ctrl_c_comes_through_while_requests_wait(local_target, serve_http, concurrency):
    over = threading.Event()
    all_wait = threading.Barrier(concurrency, action=lambda: os.kill(os.getpid(), signal.SIGINT))

    def respond(handler):
        all_wait.wait(60)
        over.wait(60)

    port = serve_http(respond).server_port
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_steps(local_target, [Step(HttpGet(port), repeat=9, concurrency=concurrency, timeout_s=60)])
    over.set()
    assert time.monotonic() - start < 30


def test_ctrl_c_does_not_wait_for_a_command_that_will_not_end(local_target, monkeypatch):
    removed = threading.Event()
    threads = []

    def run_until_removed(command, timeout_s):
        threads.append(threading.current_thread())
        if len(threads) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        removed.wait(60)
        raise EngineError("the container was removed")

    monkeypatch.setattr(local_target, "exec", run_until_removed)
    monkeypatch.setattr("warmstart.probe.warmup._STOP_GRACE_S", 0.2)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_steps(local_target, [Step(Exec(("sleep", "inf")), repeat=4, concurrency=2, timeout_s=60)])
    assert time.monotonic() - start < 30
    removed.set()
    for thread in threads:
        thread.join(60)
    assert len(threads) == 2


def test_the_server_is_left_with_no_connection(local_target, serve_http):
    """Even a server that would keep connections has closed its end of each when the step is over."""
    open_now = set()
    server = serve_http(lambda handler: handler.answer(200))
    add, remove = server.process_request, server.shutdown_request
    server.process_request = lambda request, address: (open_now.add(request), add(request, address))
    server.shutdown_request = lambda request: (open_now.discard(request), remove(request))
    run_steps(local_target, [Step(HttpGet(server.server_port), repeat=30, concurrency=3)])
    assert open_now == set()


def test_a_command_without_output_is_described_by_its_code(local_target, monkeypatch):
    monkeypatch.setattr(local_target, "exec", lambda command, timeout_s: ExecResult(2, "", ""))
    with pytest.raises(AppError, match=r"exit code 2$"):
        run_steps(local_target, [Step(Exec(("false",)))])


class Compiled:
    """A container whose processor time for each request falls with their number, as with a just-in-time compiler."""

    def __init__(self, target, cost_s, paths, compiling_s=lambda _: 0.0) -> None:
        self._target, self._cost_s, self._paths, self._compiling_s = target, cost_s, paths, compiling_s
        self.used_s, self.compiled_s, self.served = 0.0, 0.0, 0

    def serve(self, handler) -> None:
        self.used_s += self._cost_s(self.served)
        self.compiled_s += self._compiling_s(self.served)
        self.served += 1
        self._paths.append(handler.path)
        handler.answer(200)

    def activity(self):
        return Activity(self.used_s, compilers_s={(1, 2): self.compiled_s})

    def __getattr__(self, name):
        return getattr(self._target, name)


@pytest.fixture
def compiled(local_target, serve_http):
    def make(cost_s, paths=None, compiling_s=lambda _: 0.0):
        target = Compiled(local_target, cost_s, [] if paths is None else paths, compiling_s)
        return target, serve_http(target.serve).server_port

    return make


def test_a_step_is_repeated_until_the_application_gets_no_cheaper(compiled):
    target, port = compiled(lambda served: 0.009 if served < 40 else 0.003)
    [result] = run_steps(target, [Step(HttpGet(port), repeat=20, steady_limit_s=60)])
    assert result.steady
    costs_s = [round(batch.cpu_s, 4) for batch in result.batches]
    assert costs_s[:3] == [0.009, 0.009, 0.003]
    # Its latency is that of a busy machine, and may take longer to settle.
    assert costs_s[3:] == [0.003] * (len(costs_s) - 3)
    assert len(costs_s) >= 6
    assert len(result.goes_s) == target.served == 20 * len(costs_s)


def test_a_step_is_repeated_while_compilers_work(compiled):
    target, port = compiled(lambda _: 0.003, compiling_s=lambda served: 0.002 if served < 200 else 0.0)
    [result] = run_steps(target, [Step(HttpGet(port), repeat=20, steady_limit_s=60)])
    assert result.steady
    assert [round(batch.compiling_s, 4) for batch in result.batches[:10]] == [0.002] * 10
    assert [batch.compiling_s for batch in result.batches[-4:]] == [0.0] * 4


def test_a_step_ends_at_its_limit_if_the_application_always_gets_cheaper(compiled, monkeypatch):
    target, port = compiled(lambda served: 0.5**served)
    clock = iter(range(1000))
    monkeypatch.setattr("warmstart.probe.warmup.time.monotonic", lambda: float(next(clock)))
    [result] = run_steps(target, [Step(HttpGet(port), repeat=1, steady_limit_s=60)])
    assert not result.steady
    assert len(result.batches) > 4


def test_a_rest_does_not_count_towards_the_limit(compiled, monkeypatch):
    def repeat(rest_s: float) -> int:
        target, port = compiled(lambda served: 0.5**served)
        clock, rests_s = itertools.count(), itertools.chain([rest_s], itertools.repeat(0.0))
        monkeypatch.setattr("warmstart.probe.warmup.time.monotonic", lambda: float(next(clock)))
        step = Step(HttpGet(port), repeat=1, steady_limit_s=60)
        [result] = run_steps(target, [step], between=lambda: next(rests_s))
        return len(result.batches)

    assert repeat(600.0) > 5 * repeat(0.0)


def test_progress_of_a_step_without_a_number_shows_its_last_batch(compiled):
    target, port = compiled(lambda _: 0.004)
    seen = []
    run_steps(target, [Step(HttpGet(port), repeat=2, steady_limit_s=60)], on_progress=lambda p: seen.append(str(p)))
    assert seen[:2] == ["1", "2"]
    assert seen[2].startswith("3, ")
    assert seen[2].endswith(" ms and 4.0 ms of processor time each")


def test_a_failure_ends_a_repeated_step(local_target, serve_http):
    target, port = (
        Compiled(local_target, lambda _: 0.0, []),
        serve_http(lambda handler: handler.answer(500)).server_port,
    )
    with pytest.raises(AppError, match="attempt 1 failed"):
        run_steps(target, [Step(HttpGet(port, path="/x"), repeat=3, steady_limit_s=9)])


def test_neighbours_are_repeated_in_turn_until_all_are_steady(compiled):
    paths = []
    target, port = compiled(lambda _: 0.001, paths)
    steps = [Step(HttpGet(port, path=f"/{name}"), repeat=20, steady_limit_s=60) for name in "ab"]
    results = run_steps(target, [*steps, Step(HttpGet(port, path="/c"))], between=lambda: paths.append("probe") or 0.0)
    assert paths[:10] == ["/a", "/a", "/b", "/b", "probe"] * 2
    assert paths[-2:] == ["probe", "/c"]
    assert paths.count("/a") == paths.count("/b") == 20 * len(results[0].batches)
    assert len(results[0].batches) == len(results[1].batches) >= 5
    assert results[2].batches == ()
