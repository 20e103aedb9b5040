from __future__ import annotations

import contextlib
import itertools
import socket
import threading

import pytest

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import Activity, ExecResult, State
from warmstart.probe.readiness import find_limit_s, first_probe, restored_probe, wait_first_success, wait_ready
from warmstart.recipe.model import Container, Exec, HttpGet, Probe, Settled, TcpSocket

STARTUP = Exec(("started",))
READINESS = Exec(("ready",))


class HandClock:
    """Time that passes only by sleeping; `at` says what happens after so many seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._events = []

    def at(self, seconds, event):
        self._events.append((1000.0 + seconds, event))

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds, /):
        assert seconds > 0
        self.seconds += seconds
        for due, event in list(self._events):
            if due <= self.seconds:
                self._events.remove((due, event))
                event()


@pytest.fixture
def clock():
    return HandClock()


class ScriptedTarget:
    """A container whose commands exit with the codes it is given, one after the other; the last one repeats."""

    address = "10.88.0.7"

    def __init__(self, clock, **codes) -> None:
        self.current = State()
        self.calls = []
        self.duration_s = 0.0
        self._clock = clock
        self._codes = {name: list(some) for name, some in codes.items()}

    def exec(self, command, timeout_s):
        self.calls.append((command[0], self._clock.seconds - 1000))
        self._clock.seconds += self.duration_s
        codes = self._codes[command[0]]
        return ExecResult(codes.pop(0) if len(codes) > 1 else codes[0], "", f"{command[0]} says no")

    def state(self):
        return self.current

    def log_tail(self, lines):
        return [f"line {number}" for number in range(100)][-lines:]


def test_without_probes_a_running_container_is_ready(clock):
    target = ScriptedTarget(clock)
    readiness = wait_ready(target, None, None, clock=clock)
    assert (readiness.elapsed_s, readiness.attempts) == (0, 0)


def test_without_probes_a_container_that_ended_is_not_ready(clock):
    target = ScriptedTarget(clock)
    target.current = State(1, "Error")
    with pytest.raises(AppError, match="exit code 1"):
        wait_ready(target, None, None, clock=clock)


def test_the_startup_probe_comes_first_and_each_keeps_its_period(clock):
    target = ScriptedTarget(clock, started=[1, 1, 0], ready=[1, 0])
    startup = Probe(STARTUP, initial_delay_s=5, period_s=2, failure_threshold=3)
    readiness = wait_ready(target, startup, Probe(READINESS, initial_delay_s=7, period_s=3), clock=clock)
    assert target.calls == [("started", 5), ("started", 7), ("started", 9), ("ready", 9), ("ready", 12)]
    assert (readiness.elapsed_s, readiness.attempts) == (12, 5)


def test_the_delay_of_the_readiness_probe_counts_from_the_start(clock):
    target = ScriptedTarget(clock, started=[0], ready=[0])
    wait_ready(target, Probe(STARTUP), Probe(READINESS, initial_delay_s=20), clock=clock)
    assert target.calls == [("started", 0), ("ready", 20)]


def test_a_delay_that_is_over_is_not_waited_for_again(clock):
    target = ScriptedTarget(clock, ready=[0])
    readiness = wait_ready(target, None, Probe(READINESS, initial_delay_s=20), started=985.0, clock=clock)
    assert target.calls == [("ready", 5)]
    assert readiness.elapsed_s == 20


def test_an_attempt_that_takes_longer_than_the_period_is_followed_at_once(clock):
    target = ScriptedTarget(clock, ready=[1, 1, 0])
    target.duration_s = 5
    wait_ready(target, None, Probe(READINESS, period_s=2), clock=clock)
    assert [when for _, when in target.calls] == [0, 5, 10]


def test_successes_must_follow_each_other(clock):
    target = ScriptedTarget(clock, ready=[0, 1, 0, 0, 0, 1])
    wait_ready(target, None, Probe(READINESS, period_s=1, success_threshold=3), clock=clock)
    assert len(target.calls) == 5


def test_a_readiness_probe_that_goes_up_and_down_comes_to_an_end(clock):
    target = ScriptedTarget(clock, ready=[0, 1] * 50)
    with pytest.raises(AppError):
        wait_ready(target, None, Probe(READINESS, success_threshold=2, failure_threshold=4), clock=clock)
    assert len(target.calls) == 8


@pytest.mark.parametrize(("kind", "count"), [("startup", 3), ("readiness", 120)])
def test_as_many_failures_as_the_threshold_are_an_error(clock, kind, count):
    target = ScriptedTarget(clock, started=[1], ready=[1])
    startup = Probe(STARTUP, period_s=1, failure_threshold=3) if kind == "startup" else None
    with pytest.raises(AppError) as caught:
        wait_ready(target, startup, Probe(READINESS, period_s=1, failure_threshold=120), clock=clock)
    word = target.calls[0][0]
    assert len(target.calls) == count
    assert caught.value.brief == (
        f"the container was not ready after {count} failures of its {kind} probe: exit code 1: {word} says no"
    )
    assert caught.value.details[0] == f"exec {word}: exit code 1: {word} says no (attempt {count})"
    assert caught.value.details[-1] == "  line 99"
    assert f"container.{kind}Probe" in caught.value.hint


def test_the_end_of_the_container_is_noticed_between_probes(clock):
    target = ScriptedTarget(clock, ready=[1])
    clock.at(3.0, lambda: setattr(target, "current", State(137, "OOMKilled")))
    with pytest.raises(AppError) as caught:
        wait_ready(target, None, Probe(READINESS, period_s=600), clock=clock)
    assert clock.seconds - 1000 < 4
    assert "before it was ready: exit code 137 (OOMKilled)" in caught.value.brief
    assert caught.value.details[0] == "exec ready: exit code 1: ready says no (attempt 1)"
    assert caught.value.hint == "raise container.resources.limits.memory"


def test_the_end_is_noticed_when_attempts_take_longer_than_the_period(clock):
    target = ScriptedTarget(clock, ready=[1])
    target.duration_s = 5
    original = target.exec

    def die(command, timeout_s):
        target.current = State(1)
        return original(command, timeout_s)

    target.exec = die
    with pytest.raises(AppError, match="exited"):
        wait_ready(target, None, Probe(READINESS, period_s=1, failure_threshold=100), clock=clock)
    assert len(target.calls) == 1


def test_a_container_that_ends_during_its_last_attempt_is_reported_as_ended(clock):
    target = ScriptedTarget(clock, ready=[1])
    original = target.exec

    def die(command, timeout_s):
        target.current = State(1)
        return original(command, timeout_s)

    target.exec = die
    with pytest.raises(AppError, match="exited"):
        wait_ready(target, None, Probe(READINESS, failure_threshold=1), clock=clock)


@pytest.mark.parametrize(
    ("state", "text", "hint"),
    [
        (State(0, "Completed"), "exit code 0", "keeps running"),
        (State(1, "Error"), "exit code 1", "log"),
        (State(127, "Error"), "exit code 127", "container.command"),
        (State(139, "Error"), "exit code 139 (SIGSEGV)", "log"),
        (State(255, "Error"), "exit code 255", "log"),
    ],
)
def test_an_end_is_explained(clock, state, text, hint):
    target = ScriptedTarget(clock)
    target.current = state
    with pytest.raises(AppError) as caught:
        wait_ready(target, None, None, clock=clock)
    assert caught.value.brief.endswith(f": {text}")
    assert hint in caught.value.hint


def test_a_log_that_cannot_be_read_does_not_hide_the_error(clock):
    def fail(lines):
        raise EngineError("no such container")

    target = ScriptedTarget(clock)
    target.current = State(1)
    target.log_tail = fail
    with pytest.raises(AppError) as caught:
        wait_ready(target, None, None, clock=clock)
    assert caught.value.details == ("cannot read its log: no such container",)


def test_the_error_shows_what_the_application_answered(local_target, serve_http, clock):
    port = serve_http(lambda handler: handler.answer(503, b'{"status":"DOWN"}')).server_port
    probe = Probe(HttpGet(port, path="/ready"), timeout_s=5, failure_threshold=2)
    with pytest.raises(AppError) as caught:
        wait_ready(local_target, None, probe, clock=clock)
    assert caught.value.brief.endswith('HTTP 503: {"status":"DOWN"}')
    assert caught.value.details == (
        f'httpGet http://127.0.0.1:{port}/ready: HTTP 503: {{"status":"DOWN"}} (attempt 2)',
        "its log is empty",
    )


def test_a_port_that_nothing_listens_on_is_hinted_at(local_target, unused_port, clock):
    with pytest.raises(AppError) as caught:
        wait_ready(local_target, None, Probe(TcpSocket(unused_port)), clock=clock)
    assert caught.value.hint.startswith("nothing listens there")


def test_the_first_success_is_found_without_waiting_for_the_period(local_target, serve_http):
    answers = itertools.chain([503, 503], itertools.repeat(200))
    port = serve_http(lambda handler: handler.answer(next(answers))).server_port
    readiness = wait_first_success(local_target, Probe(HttpGet(port), period_s=600, timeout_s=60), limit_s=60)
    assert readiness.attempts >= 3


def test_a_connection_that_hangs_is_made_anew(local_target, monkeypatch):
    """As during a restore: the listener's queue is full, so that the kernel drops the SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = socket.create_connection(listener.getsockname(), 5)
        with pytest.raises(TimeoutError):
            local_target.connect(listener.getsockname()[1], None, 0.1)
        connect, hung = local_target.connect, []

        def connect_and_see(*arguments):
            try:
                return connect(*arguments)
            except TimeoutError:
                hung.append(True)
                if len(hung) == 2:  # the restore is done
                    listener.accept()[0].close()
                raise

        monkeypatch.setattr(local_target, "connect", connect_and_see)
        probe = Probe(TcpSocket(listener.getsockname()[1]), timeout_s=60)
        readiness = wait_first_success(local_target, probe, limit_s=60)
        waiting.close()
    assert readiness.attempts > 2


def test_no_success_within_the_limit_is_an_error(local_target, unused_port):
    probe = Probe(TcpSocket(unused_port))
    with pytest.raises(AppError, match=r"not ready within 0.1 s: connection refused"):
        wait_first_success(local_target, probe, limit_s=0.1)


def test_the_end_of_the_container_ends_the_measuring(local_target, unused_port):
    local_target.log = ["Killed"]
    timer = threading.Timer(0.1, lambda: setattr(local_target, "current", State(143, "Error")))
    timer.start()
    with pytest.raises(AppError, match="SIGTERM") as caught:
        wait_first_success(local_target, Probe(TcpSocket(unused_port)), limit_s=60)
    timer.join()
    assert caught.value.details[1:] == ("the end of its log:", "  Killed")


class WorkingTarget(ScriptedTarget):
    """A container that works for some seconds, then rests; `listens` tells when it begins to listen on which port."""

    def __init__(self, clock, busy_s, listens=()) -> None:
        super().__init__(clock)
        self.busy_s = busy_s
        self.idle_share = 0.01
        self.listens = dict(listens)
        self.accepting = True

    def activity(self):
        if self.current.exited:
            raise EngineError("cannot read the container's activity: gone")
        now = self._clock.seconds - 1000
        busy = min(now, self.busy_s)
        ports = frozenset(port for port, since in self.listens.items() if now >= since)
        return Activity(busy * 0.9 + (now - busy) * self.idle_share, ports)

    def connect(self, port, host, timeout_s):
        if not self.accepting:
            raise ConnectionRefusedError(111, "Connection refused")
        return contextlib.closing(self)

    def close(self):
        pass


def settle(target, clock, settled=None, limit_s=60.0):
    return wait_first_success(target, settled or Settled(quiet_s=2), limit_s=limit_s, clock=clock)


def test_a_container_settles_when_it_has_nothing_left_to_do(clock):
    readiness = settle(WorkingTarget(clock, busy_s=3), clock)
    assert 2.8 <= readiness.elapsed_s <= 3.2
    assert readiness.at == 1000 + readiness.elapsed_s
    assert clock.seconds >= 1000 + 3 + 1.8


def test_a_port_that_opens_late_begins_the_quiet_time_anew(clock):
    readiness = settle(WorkingTarget(clock, busy_s=1, listens={8080: 2.5}), clock)
    assert 2.5 <= readiness.elapsed_s <= 2.8


def test_a_container_that_never_rests_does_not_settle(clock):
    target = WorkingTarget(clock, busy_s=1000)
    with pytest.raises(AppError, match=r"did not settle within 60 s: in its last 2\.\d s it used 90% of a") as caught:
        settle(target, clock)
    assert "readinessProbe" in caught.value.hint
    assert caught.value.details[-1].endswith("line 99")


def test_a_container_that_ends_does_not_settle(clock):
    target = WorkingTarget(clock, busy_s=1000)
    clock.at(1, lambda: setattr(target, "current", State(0, "Completed")))
    with pytest.raises(AppError, match="exited after 1"):
        settle(target, clock)


def test_a_container_that_sleeps_a_little_between_bursts_does_not_settle(clock):
    target = WorkingTarget(clock, busy_s=0)
    target.idle_share = 0.06
    with pytest.raises(AppError, match="used 6% of a processor"):
        settle(target, clock)


def test_a_restored_container_must_listen_on_the_ports_of_the_build(clock):
    target = WorkingTarget(clock, busy_s=0)
    with pytest.raises(AppError, match="nobody accepts connections on port 9000"):
        settle(target, clock, Settled(quiet_s=1, ports=(9000,)))


def test_a_restored_container_must_accept_connections(clock):
    target = WorkingTarget(clock, busy_s=0, listens={9000: 0})
    assert settle(target, clock, Settled(quiet_s=1, ports=(9000,))).elapsed_s == 0
    target.accepting = False
    with pytest.raises(AppError, match="nobody accepts connections on port 9000"):
        settle(target, clock, Settled(quiet_s=1, ports=(9000,)))


def test_signs_of_a_cold_start_and_of_a_restore():
    container = Container("image", settled=Settled(quiet_s=7, timeout_s=40, ports=(9000,)))
    assert first_probe(container) == Settled(quiet_s=7, timeout_s=40)
    assert restored_probe(container) == Settled(quiet_s=1, timeout_s=40, ports=(9000,))
    assert restored_probe(container, connect=False) == Settled(quiet_s=1, timeout_s=40)
    assert find_limit_s(container) == 40
