"""Readiness, as the kubelet finds it.

Source: pkg/kubelet/prober/worker.go of kubernetes/kubernetes. What differs: in a cluster a container whose readiness
probe fails is left alone for ever; a build must end, so that here failureThreshold failures end it for either
probe. The recipe's readiness probe is thereby its time budget: failureThreshold × periodSeconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from warmstart.core.errors import AppError
from warmstart.engine.target import Target
from warmstart.probe.diagnosis import describe_end, read_log_end, suggest_cure
from warmstart.probe.limit import TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.recipe.model import Container, Probe

log = logging.getLogger(__name__)

# How often the runtime is asked whether the container still runs.
_STATE_PERIOD_S = 0.25
# CRIU drops the packets of a container that it is restoring. The kernel sends the next SYN only after a second;
# a new connection sends one at once.
_RESTORING_CONNECT_S = 0.02


class Clock(Protocol):
    """The passing of time; the module `time` is one."""

    def monotonic(self) -> float:
        """Seconds since some moment."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Let time pass."""
        ...


@dataclass(frozen=True)
class Readiness:
    """A container that became ready: how many seconds after its start, and at which attempt."""

    elapsed_s: float
    attempts: int


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
        clock: what to wait by.

    Raises:
        AppError: the container ended, or one of the probes failed as often as its failure threshold says.
    """
    wait = _Wait(target, clock, clock.monotonic() if started is None else started)
    wait.check_runs()
    if startup is not None:
        _await_probe(wait, "startup", startup)
    if readiness is not None:
        _await_probe(wait, "readiness", readiness)
    return wait.readiness()


def wait_first_success(target: Target, probe: Probe, *, limit_s: float, interval_s: float = 0.01) -> Readiness:
    """Measure how long it takes until a probe succeeds for the first time, to about `interval_s`.

    For measuring cold starts and restores, where the probe's own period is too coarse. Of the probe only its action
    and its time-out count. A connection to a container that is being restored may hang: it is soon given up and
    made anew.

    Raises:
        AppError: the container ended, or the probe had not succeeded after `limit_s`.
    """
    wait = _Wait(target, time, time.monotonic())
    while not wait.attempt("readiness", probe, connect_s=_RESTORING_CONNECT_S):
        if wait.elapsed_s() >= limit_s:
            raise wait.give_up(f"within {limit_s:g} s", "check the last probe result and the container's log")
        wait.sleep_until(wait.now() + interval_s)
    return wait.readiness()


def _await_probe(wait: _Wait, kind: str, probe: Probe) -> None:
    successes = failures = 0
    due = max(wait.now(), wait.start + probe.initial_delay_s)
    while successes < probe.success_threshold:
        wait.sleep_until(due)
        if wait.attempt(kind, probe):
            successes += 1
        else:
            # Counted in all, not in a row: a probe that goes up and down must come to an end too.
            successes, failures = 0, failures + 1
        if failures >= probe.failure_threshold:
            cure = f"if the application needs more time, raise failureThreshold in container.{kind}Probe"
            raise wait.give_up(f"after {failures} failures of its {kind} probe", cure)
        due = max(due + probe.period_s, wait.now())


class _Wait:
    """One container that is being waited for: since when, what was tried, and what was last seen of it."""

    def __init__(self, target: Target, clock: Clock, start: float) -> None:
        self._target = target
        self._clock = clock
        self.start = start
        self._attempts = 0
        self._seen = ""
        self._last_probe: Probe | None = None
        self._check_due = self.start

    def now(self) -> float:
        return self._clock.monotonic()

    def elapsed_s(self) -> float:
        return self.now() - self.start

    def readiness(self) -> Readiness:
        return Readiness(self.elapsed_s(), self._attempts)

    def attempt(self, kind: str, probe: Probe, *, connect_s: float = math.inf) -> bool:
        self._attempts += 1
        outcome = perform(self._target, probe.action, TimeLimit(probe.timeout_s, connect_s=connect_s))
        self._seen, self._last_probe = outcome.seen, probe
        log.debug("%s probe, attempt %d: %s", kind, self._attempts, outcome.seen)
        return outcome.ok

    def sleep_until(self, due: float) -> None:
        """Sleep, but notice promptly when the container ends."""
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
                hint=suggest_cure(state),
            )

    def give_up(self, when: str, cure: str) -> AppError:
        """The error for a container that runs but is not ready; raises that of one which has ended."""
        self.check_runs()
        if self._seen == "connection refused":
            cure = (
                "nothing listens there: check the probe's port, and that the application does not listen on 127.0.0.1"
                f" only; {cure}"
            )
        return AppError(f"the container was not ready {when}: {self._seen}", details=self._details(), hint=cure)

    def _details(self) -> list[str]:
        if self._last_probe is None:
            return read_log_end(self._target)
        action = describe(self._target, self._last_probe.action)
        return [f"{action}: {self._seen} (attempt {self._attempts})", *read_log_end(self._target)]


def first_probe(container: Container) -> Probe:
    """The probe whose first success is the end of a start: readiness, else startup; a recipe has one of them."""
    probe = container.readiness_probe or container.startup_probe
    assert probe is not None
    return probe


def find_limit_s(container: Container) -> float:
    """How long a container may take to become ready, by its own probes."""
    probes: Sequence[Probe | None] = (container.startup_probe, container.readiness_probe)
    return sum(probe.initial_delay_s + probe.period_s * probe.failure_threshold for probe in probes if probe)
