"""A JVM is prepared for its checkpoint, by a program that stands for jattach or jcmd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import Activity, ExecResult
from warmstart.probe import java
from warmstart.probe.java import prepare_java, rehearse_java

FLAGS = """1:
[Global flags]
    uintx MaxHeapFreeRatio          = {most}       {{manageable}} {{default}}
    uintx MinHeapFreeRatio          = {least}       {{manageable}} {{command line}}
     bool UseG1GC                   = true     {{product}} {{default}}
"""


@dataclass
class Jvm:
    """A container with a JVM as process 7, that knows the rules of its flags."""

    tools: Sequence[str] = ("jattach", "jcmd")
    least: int = 40
    most: int = 70
    can_trim: bool = True
    can_collect: bool = True
    done: list[str] = field(default_factory=list)
    by: set[str] = field(default_factory=set)
    quiet: bool = True

    def exec(self, command: Sequence[str], timeout_s: float) -> ExecResult:
        prefixes = {("jattach", "7", "jcmd"): "jattach", ("jcmd", "7"): "jcmd"}
        tool = prefixes.get(tuple(command[:-1]))
        if tool not in self.tools:
            raise EngineError("executable file not found in $PATH")
        self.by.add(tool)
        return self.carry_out(command[-1])

    def carry_out(self, command: str) -> ExecResult:
        match command.split():
            case ["VM.version"]:
                return ExecResult(0, "OpenJDK 64-Bit Server VM\n", "")
            case ["VM.flags", "-all"]:
                return ExecResult(0, FLAGS.format(least=self.least, most=self.most), "")
            case ["VM.set_flag", name, value]:
                least, most = (int(value), self.most) if name == "MinHeapFreeRatio" else (self.least, int(value))
                if least > most:
                    return ExecResult(1, "", f"{name} violates a constraint")
                self.least, self.most = least, most
            case ["GC.run"] if not self.can_collect:
                return ExecResult(0, "7:\nExplicit GC is disabled, no GC has been performed.\n", "")
            case ["System.trim_native_heap"] if not self.can_trim:
                return ExecResult(1, "", "java.lang.IllegalArgumentException: Unknown diagnostic command")
            case _:
                self.done.append(f"{command} at {self.least}-{self.most}")
        return ExecResult(0, "7:\nCommand executed successfully\n", "")

    def activity(self) -> Activity:
        if not self.quiet:
            raise EngineError("cannot be read")
        return Activity(1.0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(java, "QUIET_S", 0.0)
    monkeypatch.setattr(java, "PAUSE_S", 0.0)


@pytest.mark.parametrize(("least", "most"), [(40, 70), (5, 10), (80, 90), (0, 100), (0, 4)])
def test_the_heap_shrinks_and_gets_room_and_the_flags_are_as_before(least, most):
    jvm = Jvm(least=least, most=most)
    prepare_java(jvm, 7)
    assert jvm.done == ["GC.run at 5-10", "GC.run at 60-80", f"System.trim_native_heap at {least}-{most}"]
    assert (jvm.least, jvm.most) == (least, most)
    assert jvm.by == {"jattach"}


def test_a_rehearsal_only_collects():
    jvm = Jvm()
    rehearse_java(jvm, 7)
    assert jvm.done == ["GC.run at 40-70"]


def test_jcmd_does_where_there_is_no_jattach():
    jvm = Jvm(tools=["jcmd"])
    prepare_java(jvm, 7)
    assert len(jvm.done) == 3
    assert jvm.by == {"jcmd"}


def test_an_activity_that_cannot_be_read_and_a_library_that_cannot_trim_are_no_errors():
    jvm = Jvm(quiet=False, can_trim=False)
    prepare_java(jvm, 7)
    assert jvm.done == ["GC.run at 5-10", "GC.run at 60-80"]


def test_an_image_without_a_tool_is_one_clear_error():
    with pytest.raises(AppError, match="neither jattach nor jcmd can speak to a JVM as process 7") as raised:
        prepare_java(Jvm(tools=()), 7)
    assert "install jattach" in raised.value.hint
    assert [line.partition(":")[0] for line in raised.value.details] == ["jattach", "jcmd"]


def test_a_jvm_that_does_not_collect_is_an_error():
    with pytest.raises(AppError, match="does not collect garbage") as raised:
        prepare_java(Jvm(can_collect=False), 7)
    assert "DisableExplicitGC" in raised.value.hint


def test_a_jvm_without_these_flags_is_an_error(monkeypatch):
    jvm = Jvm()
    monkeypatch.setattr(Jvm, "carry_out", lambda *_: ExecResult(0, "7:\nJ9\n", ""))
    with pytest.raises(AppError, match="is it HotSpot"):
        prepare_java(jvm, 7)
