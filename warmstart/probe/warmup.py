"""Warm-up: the steps that bring an application to its full speed before it is checkpointed.

Every connection is closed on both sides: one that is open when the checkpoint is taken would be part of it.
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
from warmstart.probe.diagnosis import describe_end, read_log_end, settle_state, suggest_cure
from warmstart.probe.limit import Cancelled, Outcome, TimeLimit
from warmstart.probe.perform import describe, perform
from warmstart.recipe.model import Exec, Step

log = logging.getLogger(__name__)

#: What stands for the application's process number in a command. It is not 1 where the launcher is the first process.
PID_REFERENCE = "$(APP_PID)"

# How long to wait for threads that have been told to stop. Only a command that runs in the container can take
# longer; it ends with the container, and its thread with it.
_STOP_GRACE_S = 2.0


@dataclass(frozen=True)
class WarmupProgress:
    """How far the steps are: `done` of `step.repeat` goes of the step at `index` (from 0)."""

    index: int
    step: Step
    done: int


@dataclass(frozen=True)
class StepResult:
    """A step that succeeded: how long it took in all, and each of its goes, in the order in which they ended."""

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
    """Carry out steps one after the other, each as often and as many at once as it says.

    Args:
        target: the container.
        steps: what to do.
        field: where the steps come from in the recipe, for errors.
        pid: the application's process number in the container, for commands that have PID_REFERENCE in them.
        on_progress: called in the caller's thread after each go.

    Raises:
        AppError: a go failed; the first failure ends the step.
    """
    known = [_tell_pid(step, pid) for step in steps]
    return tuple(_run_step(target, step, index, field, on_progress) for index, step in enumerate(known))


def _tell_pid(step: Step, pid: int) -> Step:
    if not isinstance(step.action, Exec):
        return step
    return replace(step, action=Exec(tuple(word.replace(PID_REFERENCE, str(pid)) for word in step.action.command)))


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
    with closing(_one_by_one(target, step) if workers == 1 else _at_once(target, step, workers)) as goes:
        for go in goes:
            if not go.outcome.ok:
                raise _failure(target, step, go, f"{field}[{index}]")
            goes_s.append(go.elapsed_s)
            if on_progress is not None:
                on_progress(WarmupProgress(index, step, len(goes_s)))
    result = StepResult(step, time.monotonic() - start, tuple(goes_s))
    log.debug("%s[%d]: %d attempts in %.2f s", field, index, step.repeat, result.elapsed_s)
    return result


def _go(target: Target, step: Step, number: int, cancel: threading.Event | None = None) -> _Attempt:
    start = time.monotonic()
    outcome = perform(target, step.action, TimeLimit(step.timeout_s, cancel=cancel), drain=True)
    return _Attempt(number, outcome, time.monotonic() - start)


def _one_by_one(target: Target, step: Step) -> Generator[_Attempt, None, None]:
    for number in range(1, step.repeat + 1):
        yield _go(target, step, number)


def _at_once(target: Target, step: Step, workers: int) -> Generator[_Attempt, None, None]:
    """The goes as they end. When the iterator is closed, those that are under way are given up."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(1, step.repeat + 1):
        numbers.put(number)
    ended: queue.SimpleQueue[_Attempt | BaseException] = queue.SimpleQueue()
    cancel = threading.Event()

    def work() -> None:
        try:
            while True:
                ended.put(_go(target, step, numbers.get_nowait(), cancel))
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
            go = ended.get()
            if isinstance(go, BaseException):
                raise go
            yield go
    finally:
        cancel.set()
        give_up_at = time.monotonic() + _STOP_GRACE_S
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))


def _failure(target: Target, step: Step, go: _Attempt, where: str) -> AppError:
    brief = f"{where}, {describe(target, step.action)}: attempt {go.number} of {step.repeat} failed: {go.outcome.seen}"
    hint = "fix the step or raise its timeoutSeconds: every attempt must succeed"
    state = settle_state(target)
    if state.exited:
        brief += f"; the container exited with {describe_end(state)}"
        hint = suggest_cure(state)
    return AppError(brief, details=read_log_end(target), hint=hint)
