"""What every restore would lose is refused before the dump, and only what stays the same around it is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.build import kernel_state
from warmstart.build.kernel_state import judge_losses, require_kept_by_runtime, require_kept_by_self, settle
from warmstart.core.errors import PreflightError, VerifyError
from warmstart.core.progress import Progress, SilentListener
from warmstart.dump.state.compare import find_differences
from warmstart.dump.state.model import KernelState

PROC = Path("/proc")
MEMBER = KernelState({"network": {"groups": "239.7.7.7 on eth0"}})
ALONE = KernelState({"network": {"groups": ""}})
SERVICE = KernelState({"thread 7": {"name": "app", "nice": "7"}})


def test_what_the_runtime_is_certain_to_lose_is_refused_before_the_dump():
    with pytest.raises(PreflightError, match="1 thing of the application would be lost at a restore by") as caught:
        require_kept_by_runtime(MEMBER, force=False)
    assert "239.7.7.7" in caught.value.details[0]
    assert "`restore: [self]`" in caught.value.details[0]
    assert "--force" in caught.value.hint
    require_kept_by_runtime(MEMBER, force=True)
    require_kept_by_runtime(SERVICE, force=False)


def test_a_restriction_that_would_be_lost_is_refused_even_with_force():
    bound = KernelState({"thread 7": {"name": "app", "Landlock": "yes"}})
    with pytest.raises(PreflightError, match="1 thing of the application would be lost") as caught:
        require_kept_by_runtime(bound, force=True)
    assert "[lost-restriction]" in caught.value.details[0]
    assert "docs/restrictions.md" in caught.value.hint
    require_kept_by_self(bound, force=False)


def test_what_an_image_cannot_make_again_is_refused_for_itself_only():
    semaphores = KernelState({"ipc": {"semaphores": "0 1 600"}})
    with pytest.raises(PreflightError, match="would be lost at a restore by the image itself"):
        require_kept_by_self(semaphores, force=False)
    require_kept_by_self(semaphores, force=True)
    require_kept_by_runtime(semaphores, force=False)
    require_kept_by_self(KernelState({"ipc": {"semaphores": "", "shared memory": "0 0 600"}}), force=False)


def test_only_what_is_the_same_after_the_checkpoint_counts(monkeypatch):
    monkeypatch.setattr(
        kernel_state, "read_state", lambda *_, **__: KernelState({"thread 7": {"name": "app", "nice": "8"}})
    )
    assert settle(SERVICE, PROC, 7) == KernelState({"thread 7": {"name": "app"}})


def test_rules_that_bind_for_good_are_looked_for_once(monkeypatch):
    monkeypatch.setattr(kernel_state, "read_state", lambda *_, **__: SERVICE)
    bound = KernelState({"thread 7": {"name": "app", "Landlock": "yes"}})
    assert settle(bound, PROC, 7) == bound


def test_an_application_that_ended_with_the_checkpoint_was_seen_before_it(monkeypatch):
    def fail(*_: object, **__: object) -> KernelState:
        raise ProcessLookupError(7)

    monkeypatch.setattr(kernel_state, "read_state", fail)
    assert settle(SERVICE, PROC, 7) == SERVICE


def test_with_force_a_changed_behaviour_is_a_warning():
    lost = find_differences(MEMBER, ALONE, exact=True)
    progress = Progress(SilentListener())
    with pytest.raises(VerifyError, match="the launcher does not restore everything") as caught:
        judge_losses([lost, lost], "the launcher", progress, force=False)
    assert "[lost-multicast]" in caught.value.details[0]
    assert "--force" in caught.value.hint
    judge_losses([lost, lost], "the launcher", progress, force=True)
    assert progress.warnings == [f"the launcher does not restore everything: {caught.value.details[0]}"]
