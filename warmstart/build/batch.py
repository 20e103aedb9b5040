"""Several builds in one call: some at the same time, none stopped by the failure of another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, as_completed
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from warmstart.build.publish import REGISTRY, Output, describe_output, parse_output
from warmstart.core.errors import InputError, WarmstartError
from warmstart.core.progress import Progress, ProgressListener, SilentListener
from warmstart.core.reference import Transport
from warmstart.core.workers import StoppedError, WorkerPool
from warmstart.recipe.model import Recipe

#: Replaced by the name of the recipe in `--output`.
NAME = "{name}"

T = TypeVar("T")


class Status(StrEnum):
    """How one of several builds ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Task(Generic[T]):
    """One of several builds.

    Attributes:
        label: the recipe's path, unique among them.
        build: makes the image and returns the result; raises WarmstartError.
    """

    label: str
    build: Callable[[Progress], T]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The end of one of several builds.

    Attributes:
        label: as in `Task`.
        status: how it ended.
        progress: its steps and warnings.
        seconds: how long it took.
        result: the result; None unless the status is DONE.
        error: the error; None unless the status is FAILED.
    """

    label: str
    status: Status
    progress: Progress
    seconds: float = 0.0
    result: T | None = None
    error: WarmstartError | None = None


def run_builds(
    tasks: Sequence[Task[T]],
    *,
    at_once: int = 1,
    fail_fast: bool = False,
    listen: Callable[[str], ProgressListener] = lambda _: SilentListener(),
    on_end: Callable[[Outcome[T]], object] = lambda _: None,
) -> list[Outcome[T]]:
    """Run builds and return their outcomes in the order of the tasks.

    If this is interrupted, builds that run are stopped at their next step or note, and their end is awaited.

    Args:
        tasks: the builds; they begin in this order.
        at_once: how many run at the same time.
        fail_fast: after a failure, begin no other build and stop those that run.
        listen: returns the progress listener of a build, given its label.
        on_end: called in the build's thread when a build has ended.
    """
    with WorkerPool(Progress(SilentListener()), len(tasks), at_once) as pool:

        def submit(task: Task[T]) -> Future[Outcome[T]]:
            return pool.submit(task.label, lambda member: _run(task, member, listen(task.label), on_end))

        futures = [submit(task) for task in tasks]
        for future in as_completed(futures):
            outcome = _read(future)
            if fail_fast and outcome and outcome.status is Status.FAILED:
                pool.stop()
                for other in futures:
                    other.cancel()
    skipped = Progress(SilentListener())
    return [
        _read(future) or Outcome(task.label, Status.SKIPPED, skipped)
        for task, future in zip(tasks, futures, strict=True)
    ]


def find_exit_code(errors: Iterable[WarmstartError]) -> int:
    """Return the exit code of several builds: the lowest of their errors, 0 if there are none.

    The codes go from a bug (1) over the recipe (3) and the machine (4) to the registry (12), which may only need
    another attempt.
    """
    return min((error.exit_code for error in errors), default=0)


def choose_outputs(text: str | None, recipes: Sequence[Recipe]) -> list[Output]:
    """Return the output of each recipe; `text` is the value of `--output`, None for the registry.

    `{name}` stands for the recipe's name. Several recipes may share a layout, but neither an archive nor the name of an
    image.

    Raises:
        InputError: `text` is not an output, or two images would replace each other.
    """
    outputs = [parse_output(text.replace(NAME, recipe.name)) if text else REGISTRY for recipe in recipes]
    taken: dict[str, str] = {}
    for recipe, output in zip(recipes, outputs, strict=True):
        target, label = describe_output(output, recipe.image), str(recipe.source or recipe.name)
        if output.kind is Transport.OCI:
            target += f":{recipe.image}"
        if target in taken:
            one_archive = output.kind is Transport.OCI_ARCHIVE and NAME not in (text or "")
            raise InputError(
                f"{taken[target]} and {label} would both write {target}",
                hint=f"use --output oci-archive:DIRECTORY/{NAME}.tar" if one_archive else "give them different names",
            )
        taken[target] = label
    return outputs


def _run(
    task: Task[T], member: Progress, listener: ProgressListener, on_end: Callable[[Outcome[T]], object]
) -> Outcome[T]:
    progress, start = Progress(_Stoppable(listener, member)), time.monotonic()
    status, result, error = Status.SKIPPED, None, None
    try:
        result = task.build(progress)
        status = Status.DONE
    except WarmstartError as failure:
        status, error = Status.FAILED, failure
    finally:
        outcome = Outcome(task.label, status, progress, time.monotonic() - start, result, error)
        on_end(outcome)
    return outcome


def _read(future: Future[Outcome[T]]) -> Outcome[T] | None:
    """Return the outcome of a build that has ended; None if it was stopped, or did not begin."""
    try:
        return future.result()
    except (CancelledError, StoppedError):
        return None


class _Stoppable:
    """Passes on progress, and ends the build when its worker pool has stopped."""

    def __init__(self, listener: ProgressListener, member: Progress) -> None:
        self._listener = listener
        self._member = member

    def begin(self, step: str) -> None:
        self._member.note(step)  # raises StoppedError
        self._listener.begin(step)

    def note(self, text: str) -> None:
        self._member.note(text)
        self._listener.note(text)

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        self._listener.end(step, elapsed_s, ok)

    def warn(self, text: str) -> None:
        self._listener.warn(text)
