"""Compare the kernel state of a restored application with the one before the checkpoint.

The application goes on running. So only what it does not change by itself counts: facts that were the same before and
after the checkpoint, and that differ at two looks at each of the restores.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

from warmstart.core.errors import PreflightError, VerifyError
from warmstart.core.progress import Progress
from warmstart.dump.proc.container import GONE
from warmstart.dump.state.compare import Difference, describe, find_certain, find_differences, keep_confirmed
from warmstart.dump.state.model import KernelState
from warmstart.dump.state.read import read_state
from warmstart.dump.state.rules import CERTAIN_BY_RUNTIME, CERTAIN_BY_SELF

AGAIN_S = 0.1
#: A loss that --force does not accept.
RESTRICTION = "lost-restriction"

Differences = tuple[Difference, ...]


def require_kept_by_runtime(before: KernelState, *, force: bool) -> None:
    """Check before a checkpoint that a restore by the runtime loses nothing that the application cannot do without.

    Args:
        before: the state of the application.
        force: whether to accept that it will behave differently after a restore, but not with fewer restrictions.

    Raises:
        PreflightError: it would lose something.
    """
    _require_kept(before, CERTAIN_BY_RUNTIME, "by the runtime", force=force)


def require_kept_by_self(before: KernelState, *, force: bool) -> None:
    """Check the same as `require_kept_by_runtime` for an image that restores itself.

    Raises:
        PreflightError: it would lose something.
    """
    _require_kept(before, CERTAIN_BY_SELF, "by the image itself", force=force)


def _require_kept(before: KernelState, certain: Mapping[str, str], by: str, *, force: bool) -> None:
    found = find_certain(before, certain)
    refused = [each for each in found if not force or each.rule.code == RESTRICTION]
    if lost := describe(refused):
        things = "1 thing" if len(lost) == 1 else f"{len(lost)} things"
        brief = f"{things} of the application would be lost at a restore {by}"
        restricted = any(each.rule.code == RESTRICTION for each in refused)
        hint = "see docs/restrictions.md" if restricted else "fix them, or continue with --force"
        raise PreflightError(brief, details=lost, hint=hint)


def settle(before: KernelState, proc: Path, pid: int) -> KernelState:
    """Read the state again after the checkpoint, and keep the facts that were the same before it."""
    with contextlib.suppress(*GONE):  # it ended with the checkpoint
        return before.agree(read_state(proc, pid, before=before))
    return before


def find_losses(before: KernelState, proc: Path, pid: int, *, exact: bool) -> Differences:
    """Compare a restored application with the state before the checkpoint, and look again at what differs.

    Args:
        before: the state before the checkpoint.
        proc: a procfs.
        pid: first process of the restored container in it.
        exact: as for `find_differences`.

    Raises:
        OSError: it has ended.
    """

    def look() -> Differences:
        return find_differences(before, read_state(proc, pid, before=before), exact=exact)

    found = look() if before else ()
    if not found:
        return ()
    time.sleep(AGAIN_S)
    return keep_confirmed(found, look())


def judge_losses(by_restore: Sequence[Differences], who: str, progress: Progress, *, force: bool) -> None:
    """Warn of the losses that all restores of a restorer have in common, or raise.

    Args:
        by_restore: the losses of each restore.
        who: the restorer.
        progress: progress reporter.
        force: whether to accept a changed behaviour of the application, but not fewer restrictions.

    Raises:
        VerifyError: the application would behave differently.
    """
    lost = reduce(keep_confirmed, by_restore)
    errors = [each for each in lost if each.is_error and (not force or each.rule.code == RESTRICTION)]
    for line in describe([each for each in lost if each not in errors]):
        progress.warn(f"{who} does not restore everything: {line}")
    if errors:
        hint = "nothing was published; fix it, or continue with --force"
        if any(each.rule.code == RESTRICTION for each in errors):
            hint = "nothing was published; see docs/restrictions.md"
        raise VerifyError(f"{who} does not restore everything", details=describe(errors), hint=hint)
