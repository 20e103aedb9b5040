"""Diagnose a failed container: its exit status and the end of its log."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence

from warmstart.core.errors import WarmstartError
from warmstart.engine.target import State, Target

_LOG_LINES = 20
_POLLS = 2
_POLL_S = 0.2


def settle_state(target: Target) -> State:
    """Return the container's state, polling briefly while it seems to run.

    A dying container's connections close before the runtime notices its exit.
    """
    for _ in range(_POLLS):
        if (state := target.state()).exited:
            return state
        time.sleep(_POLL_S)
    return target.state()


def describe_end(state: State) -> str:
    """Describe a container's exit, such as `exit code 137 (OOMKilled)` or `exit code 139 (SIGSEGV)`."""
    code = state.exit_code or 0
    reason = "" if state.reason in ("Error", "Completed") else state.reason
    if not reason and code > 128 and code - 128 in set(signal.Signals):
        reason = signal.Signals(code - 128).name
    return f"exit code {code}" + (f" ({reason})" if reason else "")


def suggest_fix(state: State) -> str:
    """Suggest a fix for a container that exited like this."""
    if state.reason == "OOMKilled":
        return "raise container.resources.limits.memory"
    if state.exit_code == 0:
        return "use a command that keeps running: only a running container can be checkpointed"
    if state.exit_code in (126, 127):
        return "check that the program in container.command exists in the image and is executable"
    return "check the end of the container's log"


_NOT_FIRST = re.compile(r"\bpid ?1\b|\bprocess (?:id )?1\b", re.IGNORECASE)


def suggest_by_log(lines: Sequence[str]) -> str:
    """Suggest a fix for an application whose log tells that it wants to be the first process; empty for others."""
    if any(_NOT_FIRST.search(line) for line in lines):
        return (
            "below the launcher the application is not process 1: start its program without the init, or restore "
            "with the runtime only (restore: [runtime])"
        )
    return ""


def read_log_end(target: Target) -> list[str]:
    """Return the end of the container's log with a heading, for an error's details. Never raises a WarmstartError."""
    try:
        lines = target.log_tail(_LOG_LINES)
    except WarmstartError as error:
        return [f"cannot read its log: {error.brief}"]
    return ["the end of its log:", *(f"  {line}" for line in lines)] if lines else ["its log is empty"]
