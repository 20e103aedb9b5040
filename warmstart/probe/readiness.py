"""Wait for readiness as the kubelet does; without a probe, until the container has settled.

Source: pkg/kubelet/prober/worker.go of kubernetes/kubernetes. One difference: in a cluster a failing
readiness probe never ends a container. A build must end, so here failureThreshold failures of either probe end it.
The recipe's readiness probe is thus its time budget: failureThreshold × periodSeconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import Activity, Target
from warmstart.probe.diagnosis import describe_end, read_log_end, suggest_fix
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.probe.settling import Settling
from warmstart.recipe.model import Container, Probe, Settled, TcpSocket

log = logging.getLogger(__name__)

# Interval of checks that the container still runs.
_STATE_PERIOD_S = 0.25
# CRIU drops a container's packets during its restore. The kernel resends a SYN only after a second; a new
# connection sends one at once.
_RESTORING_CONNECT_S = 0.02
# Interval of looks at a container that is to settle.
_SAMPLE_S = 0.2
# A restored container has done its work already: it must only be seen to live.
_RESTORED_QUIET_S = 1.0
_ACCEPT_S = 1.0


class Clock(Protocol):
    """A clock; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Sleep."""
        ...


@dataclass(frozen=True)
class Readiness:
    """Seconds and attempts until a container was ready, and the clock's reading then."""

    elapsed_s: float
    attempts: int
    at: float = 0.0


def wait_ready(
    target: Target,
    startup: Probe | None,
    readiness: Probe | None,
    *,
    started: float | None = None,
    clock: Clock = time,
) -> Readiness:
    """Wait until a container is ready.

    The startup probe must succeed first, then the readiness probe as often in a row as its success threshold says;
    an absent probe counts as a success.

    Args:
        target: the container.
        startup: its startup probe.
        readiness: its readiness probe.
        started: the clock's reading when the container started, from which initial delays count; None means now.
        clock: the clock.

    Raises:
        AppError: the container exited, or a probe reached its failure threshold.
    """
    wait = _Wait(target, clock, clock.monotonic() if started is None else started)
    wait.check_runs()
    if startup is not None:
        _await_probe(wait, "startup", startup)
    if readiness is not None:
        _await_probe(wait, "readiness", readiness)
    return wait.readiness()


def wait_first_success(
    target: Target,
    probe: Probe | Settled,
    *,
    limit_s: float,
    interval_s: float = 0.01,
    connect_s: float = _RESTORING_CONNECT_S,
    clock: Clock = time,
    announced: Callable[[], bool] = lambda: False,
) -> Readiness:
    """Measure how long it takes until a probe succeeds for the first time, to about `interval_s`.

    For measuring cold starts and restores, where the probe's own period is too coarse. Only the probe's action and
    timeout count. A connection to a container during its restore may hang, so it is dropped after `connect_s`, and
    opened again. A container that has settled was ready when its quiet time began. The wait also ends when `announced`
    returns true.

    Raises:
        AppError: the container exited, or the probe did not succeed, or it did not settle, within `limit_s`.
    """
    wait = _Wait(target, clock, clock.monotonic())
    if isinstance(probe, Settled):
        return _await_settled(wait, probe, limit_s, announced)
    while not announced() and not wait.attempt("readiness", probe, connect_s=connect_s):
        if wait.elapsed_s() >= limit_s:
            raise wait.give_up(f"within {limit_s:g} s", "check the last probe result and the container's log")
        wait.sleep_until(wait.now() + interval_s)
    return wait.readiness()


def _await_settled(wait: _Wait, settled: Settled, limit_s: float, announced: Callable[[], bool]) -> Readiness:
    settling = Settling(settled.quiet_s)
    wait.check_runs()
    while not announced():
        activity = wait.look()
        since = settling.add(wait.now(), activity)
        refused = wait.find_refused(settled.ports or (), activity) if since is not None else None
        if since is not None and refused is None:
            return Readiness(since - wait.start, wait.attempts, since)
        if wait.elapsed_s() >= limit_s:
            why = settling.explain() if refused is None else f"nobody accepts connections on port {refused}"
            hint = (
                "see the container's log; if it never rests, give a probe in place of build.settled, such as "
                "readinessProbe: {exec: {command: [test, -f, /tmp/ready]}}"
            )
            raise wait.give_up_settling(f"within {limit_s:g} s: {why}", hint)
        wait.sleep_until(wait.now() + _SAMPLE_S)
    return wait.readiness()


def _await_probe(wait: _Wait, kind: str, probe: Probe) -> None:
    successes = failures = 0
    due = max(wait.now(), wait.start + probe.initial_delay_s)
    while successes < probe.success_threshold:
        wait.sleep_until(due)
        if wait.attempt(kind, probe):
            successes += 1
        else:
            # Counted in total, not in a row: a flapping probe must end too.
            successes, failures = 0, failures + 1
        if failures >= probe.failure_threshold:
            hint = f"if the application needs more time, raise failureThreshold in container.{kind}Probe"
            raise wait.give_up(f"after {failures} failures of its {kind} probe", hint)
        due = max(due + probe.period_s, wait.now())


class _Wait:
    """The wait for one container: its start, the attempts, and the last answer."""

    def __init__(self, target: Target, clock: Clock, start: float) -> None:
        self._target = target
        self._clock = clock
        self.start = start
        self.attempts = 0
        self._seen = ""
        self._last_probe: Probe | None = None
        self._check_due = self.start

    def now(self) -> float:
        return self._clock.monotonic()

    def elapsed_s(self) -> float:
        return self.now() - self.start

    def readiness(self) -> Readiness:
        return Readiness(self.elapsed_s(), self.attempts, self.now())

    def attempt(self, kind: str, probe: Probe, *, connect_s: float = math.inf) -> bool:
        self.attempts += 1
        outcome = perform(self._target, probe.action, TimeLimit(probe.timeout_s, connect_s=connect_s))
        self._seen, self._last_probe = outcome.seen, probe
        log.debug("%s probe, attempt %d: %s", kind, self.attempts, outcome.seen)
        return outcome.ok

    def look(self) -> Activity:
        """Return the container's activity."""
        self.attempts += 1
        try:
            return self._target.activity()
        except EngineError:
            # It reads nothing of a container that has just ended.
            self.check_runs()
            raise

    def find_refused(self, ports: Sequence[int], activity: Activity) -> int | None:
        """Return the first of these ports that nobody listens on, or accepts connections on; None if there is none.

        From outside, ports of the loopback interface cannot be tried.
        """
        for port in ports:
            if port in activity.inner_ports:
                continue
            limit = TimeLimit(_ACCEPT_S, connect_s=_ACCEPT_S)
            if port not in activity.ports or not perform(self._target, TcpSocket(port), limit).ok:
                return port
        return None

    def sleep_until(self, due: float) -> None:
        """Sleep, but notice promptly if the container exits."""
        self._check_runs_now_and_then()
        while (left_s := due - self.now()) > 0:
            self._clock.sleep(min(left_s, _STATE_PERIOD_S))
            self._check_runs_now_and_then()

    def _check_runs_now_and_then(self) -> None:
        if self.now() >= self._check_due:
            self._check_due = self.now() + _STATE_PERIOD_S
            self.check_runs()

    def check_runs(self) -> None:
        state = self._target.state()
        if state.exited:
            raise AppError(
                f"the container exited after {self.elapsed_s():.1f} s, before it was ready: {describe_end(state)}",
                details=self._details(),
                hint=suggest_fix(state),
            )

    def give_up(self, when: str, hint: str) -> AppError:
        """Return the error for a running container that is not ready; raise if it has exited."""
        self.check_runs()
        if self._seen == "connection refused":
            hint = (
                "nothing listens there: check the probe's port, and that the application does not listen on 127.0.0.1"
                f" only; {hint}"
            )
        return AppError(f"the container was not ready {when}: {self._seen}", details=self._details(), hint=hint)

    def give_up_settling(self, when: str, hint: str) -> AppError:
        """Return the error for a running container that has not settled; raise if it has exited."""
        self.check_runs()
        return AppError(f"the container did not settle {when}", details=self._details(), hint=hint)

    def _details(self) -> list[str]:
        if self._last_probe is None:
            return read_log_end(self._target)
        action = describe(self._target, self._last_probe.action)
        return [f"{action}: {self._seen} (attempt {self.attempts})", *read_log_end(self._target)]


def first_probe(container: Container) -> Probe | Settled:
    """Return the sign of the end of a cold start: the readiness probe, else the startup probe, or that it settles.

    A recipe has one of these.
    """
    probe = container.readiness_probe or container.startup_probe
    if probe is None:
        assert container.settled is not None
        return replace(container.settled, ports=None)
    return probe


def restored_probe(container: Container, *, connect: bool = True) -> Probe | Settled:
    """Return the sign of the end of a restore: as for a cold start, but a container settles sooner, with its ports.

    `connect`: whether to connect to these ports. A connection that the application does not accept prevents a
    checkpoint.
    """
    settled = container.settled
    if settled is None:
        return first_probe(container)
    ports = settled.ports if connect else None
    return replace(settled, quiet_s=min(settled.quiet_s, _RESTORED_QUIET_S), ports=ports)


def find_limit_s(container: Container) -> float:
    """Return the time in seconds that a container's probes allow it to become ready."""
    if container.settled is not None:
        return container.settled.timeout_s
    probes: Sequence[Probe | None] = (container.startup_probe, container.readiness_probe)
    return sum(probe.initial_delay_s + probe.period_s * probe.failure_threshold for probe in probes if probe)
