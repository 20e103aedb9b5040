"""Speak with the agents in a build's container; docs/hooks.md has the protocol.

The container can write anything to the build: an answer that is not understood is dropped.
"""

from __future__ import annotations

import abc
import json
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from warmstart.core.errors import AppError
from warmstart.core.text import printable
from warmstart.image.hooks import LIMIT
from warmstart.recipe.model import Runtime

# An agent that takes too long says so itself. One that says nothing gets this much longer.
GRACE_S = 5.0
_LINE_BYTES = 4096
_MOST_PROCESSES = 4096
_MOST_CHARACTERS = 1000


@dataclass(frozen=True)
class HookProcess:
    """A process that has done its hooks.

    Attributes:
        pid: its number in the container.
        runtime: name and version of its runtime, as it says itself; printable.
        before_s: seconds that its hooks before the checkpoint took.
        asked: whether it has asked for the checkpoint.
    """

    pid: int
    runtime: str
    before_s: float
    asked: bool = False


@dataclass(frozen=True)
class _Failure:
    pid: int
    phase: str
    error: str


@dataclass
class HookChannel(abc.ABC):
    """What the agents of one container have said. A subclass knows the way to them.

    Attributes:
        runtimes: the runtimes of the processes that have registered, by their numbers in the container.
    """

    runtimes: dict[int, str] = field(default_factory=dict)
    _asking: set[int] = field(default_factory=set)
    _done: dict[int, float] = field(default_factory=dict)
    _failure: _Failure | None = None
    _rest: bytes = b""

    @abc.abstractmethod
    def look(self) -> bytes:
        """Return some of what the agents have written since the last time, without waiting for more."""

    @abc.abstractmethod
    def ask(self) -> None:
        """Let the agents begin with their hooks, and give them a moment for an answer; called until all have one."""

    @abc.abstractmethod
    def stop_asking(self) -> None:
        """Undo what `ask` has done."""

    def announced(self) -> bool:
        """Read the answers; return whether the application has asked for its checkpoint."""
        self._read()
        return bool(self._asking)

    def request(
        self, list_pids: Callable[[], Collection[int]], check: Callable[[], object], limit_s: float
    ) -> tuple[HookProcess, ...]:
        """Have all registered processes that still run do their hooks, and return them.

        Args:
            list_pids: lists the running processes of the container, by their numbers there.
            check: called again and again; raises an error if the container has ended.
            limit_s: seconds that an agent allows.

        Raises:
            AppError: a hook failed, or did not end.
        """
        deadline = time.monotonic() + limit_s + GRACE_S
        try:
            while waiting := self._find_waiting(list_pids()):
                check()
                if time.monotonic() > deadline:
                    raise self._explain_silence(waiting, limit_s)
                self.ask()
        finally:
            self.stop_asking()
        done = sorted(self._done.items())
        return tuple(HookProcess(pid, self.runtimes[pid], seconds, pid in self._asking) for pid, seconds in done)

    def require(self, runtimes: Collection[Runtime], pids: Collection[int]) -> None:
        """Check that each of these runtimes has a process that registered and still runs.

        Raises:
            AppError: one has none.
        """
        self._read()
        found = {self.runtimes[pid].partition(" ")[0] for pid in pids if pid in self.runtimes}
        for runtime in runtimes:
            if runtime not in found:
                raise AppError(
                    f"hooks: no process of the application has loaded the agent for {runtime}",
                    hint=f"start it with the environment of the container, or leave {runtime} out of hooks",
                )

    def _find_waiting(self, running: Collection[int]) -> list[int]:
        """Return the processes without an answer.

        Raises:
            AppError: one said that a hook failed.
        """
        self._read()
        if self._failure is not None:
            failure, runtime = self._failure, self.runtimes.get(self._failure.pid, "")
            raise AppError(
                f"the {failure.phase} hooks of process {failure.pid} ({runtime}) failed: {failure.error}",
                hint="the callback is the application's own, or of a library: its log may tell more;"
                " `hooks: none` does without",
            )
        self._done = {pid: seconds for pid, seconds in self._done.items() if pid in running}
        return [pid for pid in self.runtimes if pid in running and pid not in self._done]

    def _explain_silence(self, waiting: list[int], limit_s: float) -> AppError:
        pid = waiting[0]
        return AppError(
            f"the beforeCheckpoint hooks of process {pid} ({self.runtimes[pid]}) did not end within {limit_s:g} s",
            hint=f"allow more seconds with {LIMIT} in container.env, or do without: `hooks: none`",
        )

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self.look()).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > _LINE_BYTES:
            self._rest = b""

    def _take(self, line: bytes) -> None:
        answer = _parse(line)
        pid, event = answer.get("pid"), answer.get("event")
        if type(pid) is not int or pid < 1:
            return
        if event == "registered" and len(self.runtimes) < _MOST_PROCESSES:
            self.runtimes[pid] = _text(answer.get("runtime"))
            self._done.pop(pid, None)
        elif event == "ready" and pid in self.runtimes:
            self._asking.add(pid)
        elif event == "checkpoint" and pid in self.runtimes:
            self._done[pid] = _seconds(answer.get("seconds"))
        elif event == "failed" and self._failure is None:
            self._failure = _Failure(pid, _text(answer.get("phase")), _text(answer.get("error")))


def _parse(line: bytes) -> dict[str, Any]:
    """Return the object in a line; an empty one if there is none."""
    try:
        answer = json.loads(line) if len(line) <= _LINE_BYTES else None
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _text(value: object) -> str:
    return printable(value[:_MOST_CHARACTERS]) if isinstance(value, str) else ""


def _seconds(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and 0 <= value < 1e6 else 0.0  # type: ignore[arg-type,operator]
