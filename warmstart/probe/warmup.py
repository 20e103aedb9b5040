"""Run the warm-up steps that bring an application to full speed before its checkpoint.

Every connection is closed on both sides, since an open one would become part of the checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median

from warmstart.core.errors import AppError
from warmstart.engine.target import Target
from warmstart.probe.diagnosis import describe_end, read_log_end, settle_state, suggest_fix
from warmstart.probe.limit import Cancelled, Outcome, TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.probe.settling import await_quiet
from warmstart.probe.steady import Batch, is_steady
from warmstart.recipe.model import PID_REFERENCE, Exec, Step

log = logging.getLogger(__name__)

# Time for cancelled threads to stop. Only a command in the container can take longer; it and its thread end with
# the container.
_STOP_GRACE_S = 2.0
# Of a steady application: how long it must be quiet, and how long to wait for that.
_QUIET_S, _QUIET_LIMIT_S = 1.0, 15.0
# Turns in which the attempts of a batch are done.
_TURNS = 10


@dataclass(frozen=True)
class WarmupProgress:
    """Progress of the steps: `done` attempts of the step at `index` (from 0), and its last batch if it has some."""

    index: int
    step: Step
    done: int
    last: Batch | None = None

    def __str__(self) -> str:
        if self.last is not None:
            return f"{self.done}, {self.last}"
        return f"{self.done}" if self.step.steady_limit_s else f"{self.done} of {self.step.repeat}"


@dataclass(frozen=True)
class StepResult:
    """A successful step.

    Attributes:
        step: the step.
        elapsed_s: its total time.
        goes_s: the time of each attempt in order of completion.
        batches: of a step that was repeated until the application got no faster.
        steady: whether it got no faster in the end; False if the step's limit came first.
    """

    step: Step
    elapsed_s: float
    goes_s: tuple[float, ...]
    batches: tuple[Batch, ...] = ()
    steady: bool = True


def run_steps(
    target: Target,
    steps: Sequence[Step],
    *,
    field: str = "warmup",
    pid: int = 1,
    on_progress: Callable[[WarmupProgress], None] | None = None,
    between: Callable[[], float] = lambda: 0.0,
) -> tuple[StepResult, ...]:
    """Run steps one after the other, each with its repeat count and concurrency.

    Neighbours that are repeated until the application is steady are done in turn: a compiler optimises for the
    requests that it saw last, and would have to begin anew with the first of another kind.

    Args:
        target: the container.
        steps: the steps.
        field: the recipe field of the steps, for errors.
        pid: the application's process number in the container, for commands with PID_REFERENCE.
        on_progress: callback after each attempt, in the caller's thread.
        between: called again and again while steps are repeated until the application is steady. Their limits do not
            include the seconds that it returns.

    Raises:
        AppError: an attempt failed; the first failure ends the step.
    """
    runs = [_StepRun(target, _insert_pid(step, pid), index, field, on_progress) for index, step in enumerate(steps)]
    for until_steady, group in itertools.groupby(runs, lambda run: run.step.steady_limit_s is not None):
        if until_steady:
            _repeat_until_steady(target, tuple(group), between)
        else:
            for run in group:
                run.go(run.step.repeat)
    return tuple(run.result for run in runs)


def _insert_pid(step: Step, pid: int) -> Step:
    if not isinstance(step.action, Exec):
        return step
    command = tuple(word.replace(PID_REFERENCE, str(pid)) for word in step.action.command)
    return replace(step, action=replace(step.action, command=command))


@dataclass(frozen=True)
class _Attempt:
    """One repetition of a step, numbered from 1."""

    number: int
    outcome: Outcome
    elapsed_s: float


@dataclass
class _StepRun:
    """A step, and its attempts so far."""

    target: Target
    step: Step
    index: int
    field: str
    on_progress: Callable[[WarmupProgress], None] | None
    elapsed_s: float = 0.0
    goes_s: list[float] = dataclasses.field(default_factory=list)
    batches: list[Batch] = dataclasses.field(default_factory=list)

    @property
    def result(self) -> StepResult:
        log.debug("%s[%d]: %d attempts in %.2f s", self.field, self.index, len(self.goes_s), self.elapsed_s)
        steady = not self.batches or is_steady(self.batches)
        return StepResult(self.step, self.elapsed_s, tuple(self.goes_s), tuple(self.batches), steady)

    def go(self, count: int) -> None:
        """Do `count` attempts.

        Raises:
            AppError: one failed.
        """
        start = time.monotonic()
        last = self.batches[-1] if self.batches else None
        with closing(_attempt_often(self.target, self.step, count)) as attempts:
            for attempt in attempts:
                if not attempt.outcome.ok:
                    number = (
                        f"{attempt.number} of {count}" if not self.step.steady_limit_s else f"{len(self.goes_s) + 1}"
                    )
                    raise _failure(self.target, self.step, attempt, number, f"{self.field}[{self.index}]")
                self.goes_s.append(attempt.elapsed_s)
                if self.on_progress is not None:
                    self.on_progress(WarmupProgress(self.index, self.step, len(self.goes_s), last))
        self.elapsed_s += time.monotonic() - start


def _repeat_until_steady(target: Target, runs: Sequence[_StepRun], between: Callable[[], float]) -> None:
    """Run batches until the application gets no faster and is quiet, or until the longest limit of the steps."""
    deadline = time.monotonic() + max(run.step.steady_limit_s or 0 for run in runs)
    while not all(is_steady(run.batches) for run in runs) and time.monotonic() < deadline:
        before = target.activity()
        for turn in range(_TURNS):
            for run in runs:
                if count := _share(run.step.repeat, turn):
                    run.go(count)
            deadline += between()
        after, attempts = target.activity(), sum(run.step.repeat for run in runs)
        cpu_s, compiling_s = (after.cpu_s - before.cpu_s) / attempts, after.compiled_since(before) / attempts
        for run in runs:
            latency_s = median(run.goes_s[-run.step.repeat :])
            run.batches.append(Batch(run.step.repeat, latency_s, cpu_s, compiling_s))
    await_quiet(target, _QUIET_S, _QUIET_LIMIT_S)


def _share(repeat: int, turn: int) -> int:
    """Return how many of the attempts of a batch are done in one of its turns."""
    return repeat * (turn + 1) // _TURNS - repeat * turn // _TURNS


def _attempt(target: Target, step: Step, number: int, cancel: threading.Event | None = None) -> _Attempt:
    start = time.monotonic()
    outcome = perform(target, step.action, TimeLimit(step.timeout_s, cancel=cancel), drain=True)
    return _Attempt(number, outcome, time.monotonic() - start)


def _attempt_often(target: Target, step: Step, count: int) -> Generator[_Attempt, None, None]:
    workers = min(step.concurrency, count)
    return _one_by_one(target, step, count) if workers <= 1 else _at_once(target, step, count, workers)


def _one_by_one(target: Target, step: Step, count: int) -> Generator[_Attempt, None, None]:
    for number in range(1, count + 1):
        yield _attempt(target, step, number)


def _at_once(target: Target, step: Step, count: int, workers: int) -> Generator[_Attempt, None, None]:
    """Yield attempts as they end. Closing the iterator cancels those in progress."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(1, count + 1):
        numbers.put(number)
    ended: queue.SimpleQueue[_Attempt | BaseException] = queue.SimpleQueue()
    cancel = threading.Event()

    def work() -> None:
        try:
            while True:
                ended.put(_attempt(target, step, numbers.get_nowait(), cancel))
        except (queue.Empty, Cancelled):
            return
        except BaseException as unexpected:
            ended.put(unexpected)

    threads = []
    try:
        for _ in range(workers):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            threads.append(thread)
        for _ in range(count):
            attempt = ended.get()
            if isinstance(attempt, BaseException):
                raise attempt
            yield attempt
    finally:
        cancel.set()
        give_up_at = time.monotonic() + _STOP_GRACE_S
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))


def _failure(target: Target, step: Step, attempt: _Attempt, number: str, where: str) -> AppError:
    brief = f"{where}, {describe(target, step.action)}: attempt {number} failed: {attempt.outcome.seen}"
    hint = "fix the step or raise its timeoutSeconds: every attempt must succeed"
    state = settle_state(target)
    if state.exited:
        brief += f"; the container exited with {describe_end(state)}"
        hint = suggest_fix(state)
    return AppError(brief, details=read_log_end(target), hint=hint)
