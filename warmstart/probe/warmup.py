"""Run the warm-up steps that bring an application to full speed before its checkpoint.

Every connection is closed on both sides, since an open one would become part of the checkpoint.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from warmstart.core.errors import AppError
from warmstart.engine.target import Target
from warmstart.probe.diagnosis import describe_end, read_log_end, settle_state, suggest_fix
from warmstart.probe.limit import Cancelled, Outcome, TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.recipe.model import PID_REFERENCE, Exec, Step

log = logging.getLogger(__name__)

# Time for cancelled threads to stop. Only a command in the container can take longer; it and its thread end with
# the container.
_STOP_GRACE_S = 2.0


@dataclass(frozen=True)
class WarmupProgress:
    """Progress of the steps: `done` of `step.repeat` attempts of the step at `index` (from 0)."""

    index: int
    step: Step
    done: int


@dataclass(frozen=True)
class StepResult:
    """A successful step: its total time, and the time of each attempt in order of completion."""

    step: Step
    elapsed_s: float
    goes_s: tuple[float, ...]


def run_steps(
    target: Target,
    steps: Sequence[Step],
    *,
    field: str = "warmup",
    pid: int = 1,
    on_progress: Callable[[WarmupProgress], None] | None = None,
) -> tuple[StepResult, ...]:
    """Run steps one after the other, each with its repeat count and concurrency.

    Args:
        target: the container.
        steps: the steps.
        field: the recipe field of the steps, for errors.
        pid: the application's process number in the container, for commands with PID_REFERENCE.
        on_progress: callback after each attempt, in the caller's thread.

    Raises:
        AppError: an attempt failed; the first failure ends the step.
    """
    known = [_insert_pid(step, pid) for step in steps]
    return tuple(_run_step(target, step, index, field, on_progress) for index, step in enumerate(known))


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


def _run_step(
    target: Target, step: Step, index: int, field: str, on_progress: Callable[[WarmupProgress], None] | None
) -> StepResult:
    start = time.monotonic()
    goes_s: list[float] = []
    workers = min(step.concurrency, step.repeat)
    with closing(_one_by_one(target, step) if workers == 1 else _at_once(target, step, workers)) as attempts:
        for attempt in attempts:
            if not attempt.outcome.ok:
                raise _failure(target, step, attempt, f"{field}[{index}]")
            goes_s.append(attempt.elapsed_s)
            if on_progress is not None:
                on_progress(WarmupProgress(index, step, len(goes_s)))
    result = StepResult(step, time.monotonic() - start, tuple(goes_s))
    log.debug("%s[%d]: %d attempts in %.2f s", field, index, step.repeat, result.elapsed_s)
    return result


def _attempt(target: Target, step: Step, number: int, cancel: threading.Event | None = None) -> _Attempt:
    start = time.monotonic()
    outcome = perform(target, step.action, TimeLimit(step.timeout_s, cancel=cancel), drain=True)
    return _Attempt(number, outcome, time.monotonic() - start)


def _one_by_one(target: Target, step: Step) -> Generator[_Attempt, None, None]:
    for number in range(1, step.repeat + 1):
        yield _attempt(target, step, number)


def _at_once(target: Target, step: Step, workers: int) -> Generator[_Attempt, None, None]:
    """Yield attempts as they end. Closing the iterator cancels those in progress."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(1, step.repeat + 1):
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
        for _ in range(step.repeat):
            attempt = ended.get()
            if isinstance(attempt, BaseException):
                raise attempt
            yield attempt
    finally:
        cancel.set()
        give_up_at = time.monotonic() + _STOP_GRACE_S
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))


def _failure(target: Target, step: Step, attempt: _Attempt, where: str) -> AppError:
    number = f"attempt {attempt.number} of {step.repeat}"
    brief = f"{where}, {describe(target, step.action)}: {number} failed: {attempt.outcome.seen}"
    hint = "fix the step or raise its timeoutSeconds: every attempt must succeed"
    state = settle_state(target)
    if state.exited:
        brief += f"; the container exited with {describe_end(state)}"
        hint = suggest_fix(state)
    return AppError(brief, details=read_log_end(target), hint=hint)
