"""Steps: what a listener is told, and what is remembered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import warmstart
from warmstart.core.progress import Progress, SilentListener, report_warning


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def begin(self, step: str) -> None:
        self.told.append(("begin", step))

    def note(self, text: str) -> None:
        self.told.append(("note", text))

    def end(self, step: str, elapsed_s: float, ok: bool) -> None:
        assert elapsed_s >= 0
        self.told.append(("end", step, ok))

    def warn(self, text: str) -> None:
        self.told.append(("warn", text))


def test_a_listener_is_told_of_all_in_order():
    recorder = Recorder()
    steps = Progress(recorder)
    with steps.step("pull"):
        steps.note("half")
    with steps.step("start"):
        steps.warn("slow")
    assert recorder.told == [
        ("begin", "pull"),
        ("note", "half"),
        ("end", "pull", True),
        ("begin", "start"),
        ("warn", "slow"),
        ("end", "start", True),
    ]
    assert list(steps.durations_s) == ["pull", "start"]
    assert all(seconds >= 0 for seconds in steps.durations_s.values())
    assert steps.warnings == ["slow"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_step_that_fails_is_told_and_not_counted(error):
    recorder = Recorder()
    steps = Progress(recorder)
    with pytest.raises(error), steps.step("pull"):
        raise error
    assert recorder.told == [("begin", "pull"), ("end", "pull", False)]
    assert steps.durations_s == {}


def test_nobody_needs_to_listen():
    steps = Progress(SilentListener())
    with steps.step("pull"):
        steps.note("half")
        steps.warn("slow")
    assert list(steps.durations_s) == ["pull"]
    assert steps.warnings == ["slow"]


def test_steps_of_one_name_are_added_up(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 10.0, 12.5, 12.5])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    steps = Progress(SilentListener())
    for _ in range(2):
        with steps.step("image"):
            pass
    assert steps.durations_s == {"image": 3.5}


def test_a_warning_from_deep_inside_a_step_goes_to_the_listener(caplog):
    recorder = Recorder()
    with Progress(recorder).step("pull"), Progress(SilentListener()).step("other"):
        pass
    steps = Progress(recorder)
    with steps.listen():
        with steps.step("push"):
            report_warning("trying again")
        report_warning("between steps")
    assert [text for kind, text, *_ in recorder.told if kind == "warn"] == ["trying again", "between steps"]
    # The documents of --json are made of these.
    assert steps.warnings == ["trying again", "between steps"]
    assert not caplog.messages
    report_warning("later")
    assert caplog.messages == ["later"]


def test_no_module_warns_past_the_listener():
    sources = Path(warmstart.__file__).parent.rglob("*.py")
    call = re.compile(r"\b(?:log|logger|logging)\.(?:warning|error|exception)\(|warnings\.warn\(")
    found = {path.name for path in sources if call.search(path.read_text())}
    assert found == {"progress.py"}
