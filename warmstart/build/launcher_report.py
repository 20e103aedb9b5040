"""The launcher's line in a container's log: whether it restored the application, or started it cold."""

from __future__ import annotations

import time
from dataclasses import dataclass

from warmstart.core.errors import VerifyError
from warmstart.engine.cri import CriContainer
from warmstart.image.selfrestore.pack import COLD_START, RESTORED, STEP_FAILED
from warmstart.recipe.model import Exec, Probe, Settled

LOG_LINES = 1000
LOG_S = 5.0
SHOWN_LINES = 10


@dataclass(frozen=True)
class LauncherTimes:
    """Milliseconds by the launcher's own clock.

    Attributes:
        restore_ms: of the restore.
        hooks_ms: of the application's hooks after it; None if it has none.
        steps_ms: of the recipe's steps after both; None if it has none.
    """

    restore_ms: int
    hooks_ms: int | None
    steps_ms: int | None = None


def await_launcher(running: CriContainer, sign: Probe | Settled) -> None:
    """Wait for the launcher's decision if commands are run in the container as a sign of its end.

    They take process numbers, of which a restore needs certain ones, and here they follow each other closely.

    Raises:
        VerifyError: it logged nothing.
    """
    if isinstance(sign, Probe) and isinstance(sign.action, Exec):
        _await_report(running)


def read_launcher_times(running: CriContainer) -> LauncherTimes:
    """Return how long the restore took.

    Raises:
        VerifyError: it started the application cold, or logged nothing.
    """
    report = _await_report(running)
    if match := RESTORED.match(report):
        hooks_ms, steps_ms = (int(match[name]) if match[name] else None for name in ("hooks", "steps"))
        return LauncherTimes(int(match["restore"]), hooks_ms, steps_ms)
    if match := STEP_FAILED.match(report):
        raise VerifyError(f"the image restored itself, but {match[1]}", details=running.log_tail(SHOWN_LINES))
    raise VerifyError(
        f"the image started cold instead of restoring itself: {report}", details=running.log_tail(SHOWN_LINES)
    )


def check_started_cold(running: CriContainer) -> None:
    """Check that the launcher started the application cold.

    Raises:
        VerifyError: it restored the application, or logged nothing.
    """
    if RESTORED.match(_await_report(running)):
        brief = "the image restored itself although WARMSTART=off was set"
        raise VerifyError(brief, details=running.log_tail(SHOWN_LINES))


def _await_report(running: CriContainer) -> str:
    """Wait for the launcher's line: the runtime's monitor writes the log, and may be late."""
    deadline = time.monotonic() + LOG_S
    while time.monotonic() < deadline:
        for line in running.log_tail(LOG_LINES):
            if STEP_FAILED.match(line) or RESTORED.match(line) or COLD_START.match(line):
                return line
        time.sleep(0.02)
    raise VerifyError("the launcher logged neither a restore nor a cold start", details=running.log_tail(SHOWN_LINES))
