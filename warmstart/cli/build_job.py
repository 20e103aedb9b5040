"""One build of the command `build`, in this process or in a separate one.

Several builds run in separate processes. Each cleans up after SIGTERM as a single build does, and the end of one does
not disturb the others. Such a process reads a pickled `Job` from standard input, and writes lines of JSON: the calls of
a progress listener, and finally the result.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn

from warmstart.build.context import BuildOptions
from warmstart.build.existing import ExistingImage, find_existing
from warmstart.build.pipeline import build_image
from warmstart.build.result import BuildResult
from warmstart.cli.interruption import end_in_order
from warmstart.cli.main import explain
from warmstart.cli.terminal import start_logging
from warmstart.core import process
from warmstart.core.errors import HostError, WarmstartError
from warmstart.core.linux import set_parent_death_signal
from warmstart.core.progress import Progress
from warmstart.core.workspace import use_for_temporary_files
from warmstart.kube.client import connect_cluster
from warmstart.pods.build import ClusterTarget, build_in_cluster
from warmstart.pods.checkpoint import CheckpointOptions
from warmstart.recipe.model import Recipe

log = logging.getLogger(__name__)

Built = BuildResult | ExistingImage


@dataclass(frozen=True)
class ClusterChoice:
    """The cluster to build in: its context and namespace, and how the checkpoint is taken."""

    context: str | None
    namespace: str | None
    how: CheckpointOptions


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        recipe: the recipe.
        options: build options.
        rebuild: whether to build even if the target has an image with the same key.
        cluster: cluster to run the container in; None for this machine.
    """

    recipe: Recipe
    options: BuildOptions
    rebuild: bool = False
    cluster: ClusterChoice | None = None


def run_job(job: Job, progress: Progress) -> Built:
    """Build the image, or find that it exists.

    Raises:
        WarmstartError: a step failed; nothing was published, and nothing is left behind.
    """
    for warning in job.recipe.warnings:
        progress.warn(warning)
    if job.cluster is not None:
        # The key does not cover the nodes of a cluster.
        with connect_cluster(job.cluster.context, job.cluster.namespace) as cluster:
            return build_in_cluster(job.recipe, job.options, ClusterTarget(cluster, job.cluster.how), progress)
    if not job.rebuild:
        with progress.step("compare"):
            existing = find_existing(job.recipe, job.options)
        if existing:
            return existing
    return build_image(job.recipe, job.options, progress)


def run_job_apart(job: Job, progress: Progress, *, debug: bool) -> Built:
    """Do as `run_job`, in a separate process.

    Raises:
        WarmstartError: as `run_job`, with the error's kind and exit code.
    """
    replay = _Replay(progress)
    # -P: otherwise, modules in the current directory would come before all others.
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
    request = pickle.dumps((os.getpid(), sys.argv, debug, job))
    status = process.converse(command, request, on_line=replay.read, on_tick=replay.tick)
    if replay.result is None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        raise HostError(f"the process of the build {how}", hint="check the memory of this machine: `journalctl -k`")
    if isinstance(replay.result, WarmstartError):
        raise replay.result
    return replay.result


class _Replay:
    """Repeats the progress of the other process here, and holds the result."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: list[AbstractContextManager[None]] = []
        self._note = ""
        self.result: Built | WarmstartError | None = None

    def tick(self) -> None:
        """Repeat the last note, so that a stop request takes effect."""
        self._progress.note(self._note)

    def read(self, line: bytes) -> None:
        """Act on one line."""
        call, *words = json.loads(line)
        calls: dict[str, Callable[..., object]] = {
            "begin": self._begin,
            "note": self._set_note,
            "end": self._end,
            "warn": self._progress.warn,
            "done": self._finish,
            "failed": self._fail,
        }
        calls[call](*words)

    def _begin(self, step: str) -> None:
        self._note = ""
        self._steps.append(self._progress.step(step))
        self._steps[-1].__enter__()

    def _set_note(self, text: str) -> None:
        self._note = text
        self._progress.note(text)

    def _end(self, ok: bool) -> None:
        error = None if ok else _StepError()
        with contextlib.suppress(_StepError):  # the reason comes with the result
            self._steps.pop().__exit__(type(error) if error else None, error, None)

    def _finish(self, pickled: str) -> None:
        self.result = pickle.loads(base64.b64decode(pickled))  # noqa: S301  (from a process of ours)

    def _fail(self, code: int, kind: str, brief: str, details: Sequence[str], hint: str) -> None:
        self.result = WarmstartError(brief, details=details, hint=hint)
        self.result.exit_code, self.result.kind = code, kind


class _StepError(Exception):
    """A step has failed in the other process."""


class _Writer:
    """A progress listener that writes each call as a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, *words: Any) -> None:
        """Write a line."""
        line = json.dumps(words).encode() + b"\n"
        # Without a reader, this process is about to be terminated, and must still clean up.
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._descriptor, line) :]

    def begin(self, step: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self.write("begin", step)

    def note(self, text: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self.write("note", text)

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        del step, elapsed_s
        self.write("end", ok)

    def warn(self, text: str) -> None:
        """See `warmstart.core.progress.ProgressListener`."""
        self.write("warn", text)


def main() -> NoReturn:
    """Run the job from standard input, and exit."""
    sys.exit(_answer())


def _answer() -> int:
    end_in_order()
    parent, sys.argv, debug, job = pickle.load(sys.stdin.buffer)  # noqa: S301  (from a process of ours)
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return signal.SIGTERM
    start_logging(sys.stderr, logging.DEBUG if debug else logging.WARNING)
    use_for_temporary_files()
    writer = _Writer(os.dup(1))
    # Anything else that writes to standard output goes to standard error.
    os.dup2(2, 1)
    try:
        built = run_job(job, Progress(writer))
    except Exception as error:
        log.debug("the build failed", exc_info=error)
        shown = explain(error)
        writer.write("failed", shown.exit_code, shown.kind, shown.brief, shown.details, shown.hint)
        return shown.exit_code
    writer.write("done", base64.b64encode(pickle.dumps(built)).decode())
    return 0
