"""Prepare a JVM for its checkpoint: few collections in the first requests after a restore, and few bytes.

A collection before the checkpoint alone does the reverse: it leaves a heap without free space, so that the first
requests after each restore start collections, which copy everything. So the heap is shrunk, and then it grows again by
space that nothing has touched, which takes no bytes in the image.

A collection on request is new to an application. Micrometer, for example, makes a meter for each cause of a collection,
by code that each request runs too. HotSpot takes compiled code back when it does something for the first time, and each
restored container would compile it again. So there is such a collection in the warm-up, too. In one until the
application is steady, it is late, so that compilers know by then that a meter may be new: restored applications make
some.

The same is true of tasks at intervals. Micrometer turns the windows of its maxima after 40 seconds
(`TimeWindowMax.rotate`), by the first request that comes then. So such a warm-up also has a rest.

The flags are manageable at run time in HotSpot (`gc_globals.hpp`), and come back to their own values.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from warmstart.core.errors import AppError, EngineError
from warmstart.engine.target import ExecResult, Target
from warmstart.probe.settling import await_quiet

log = logging.getLogger(__name__)

COMMAND_S = 60.0
#: The rest in a warm-up. Micrometer's windows last 40 s: a third of two minutes (DistributionStatisticConfig.DEFAULT).
REST_S = 45.0
# Compiler threads end, and give their memory back, when they have had nothing to compile for some time.
QUIET_S, QUIET_LIMIT_S = 3.0, 30.0
# If the activity cannot be seen.
PAUSE_S = 5.0
_TOOLS = ("jattach", "jcmd")
_FLAG = re.compile(r"^\s*\w+ (?P<name>M(?:in|ax)HeapFreeRatio)\s*:?= *(?P<value>\d+)\s", re.MULTILINE)
_DISABLED = "GC is disabled"


class FreeRatios(NamedTuple):
    """The smallest and the largest free share of the heap after a collection, in percent."""

    least: int
    most: int


SMALL, ROOMY = FreeRatios(5, 10), FreeRatios(60, 80)


def rehearse_java(target: Target, pid: int) -> None:
    """Collect the garbage of a JVM in its warm-up; arguments and errors as for `prepare_java`."""
    _connect(target, pid).collect()


def prepare_java(target: Target, pid: int) -> None:
    """Shrink the heap of a JVM, give it room again, and have it return other free memory.

    Args:
        target: the container.
        pid: process number of the JVM in the container.

    Raises:
        AppError: the container has neither jattach nor jcmd, or the process is no JVM that can do this.
    """
    jvm = _connect(target, pid)
    own = jvm.read_ratios()
    try:
        await_quiet(target, QUIET_S, QUIET_LIMIT_S)
    except EngineError:
        time.sleep(PAUSE_S)
    now = own
    for ratios in (SMALL, ROOMY):
        jvm.set_ratios(now, ratios)
        jvm.collect()
        now = ratios
    jvm.set_ratios(now, own)
    jvm.trim()


@dataclass(frozen=True)
class _Jvm:
    """A JVM, and the command that runs diagnostic commands in it."""

    target: Target
    command: Sequence[str]

    def run(self, command: str) -> str:
        """Run a diagnostic command and return its output.

        Raises:
            AppError: it failed.
        """
        done = _exec(self.target, (*self.command, command))
        if done.exit_code:
            raise AppError(f"prepare: java: {self.command[0]} {command} failed: {_last_line(done)}")
        return done.stdout

    def read_ratios(self) -> FreeRatios:
        """Read the ratios that the JVM has."""
        found = {match["name"]: int(match["value"]) for match in _FLAG.finditer(self.run("VM.flags -all"))}
        if len(found) != len(FreeRatios._fields):
            raise AppError("prepare: java: the JVM has no MinHeapFreeRatio and MaxHeapFreeRatio: is it HotSpot?")
        return FreeRatios(found["MinHeapFreeRatio"], found["MaxHeapFreeRatio"])

    def set_ratios(self, now: FreeRatios, ratios: FreeRatios) -> None:
        """Set the ratios; the smallest must never be above the largest."""
        commands = [f"VM.set_flag MinHeapFreeRatio {ratios.least}", f"VM.set_flag MaxHeapFreeRatio {ratios.most}"]
        for command in commands if ratios.least <= now.most else reversed(commands):
            self.run(command)

    def collect(self) -> None:
        """Collect all garbage."""
        if _DISABLED in self.run("GC.run"):
            hint = "remove -XX:+DisableExplicitGC from the JVM's options"
            raise AppError("prepare: java: the JVM does not collect garbage when it is asked to", hint=hint)

    def trim(self) -> None:
        """Return free memory of the C library. JVMs before 17.0.9, and those on musl, cannot."""
        try:
            self.run("System.trim_native_heap")
        except AppError as error:
            log.debug("%s", error.brief)


def _connect(target: Target, pid: int) -> _Jvm:
    seen = []
    for tool in _TOOLS:
        command = (tool, str(pid), "jcmd") if tool == "jattach" else (tool, str(pid))
        done = _exec(target, (*command, "VM.version"))
        if not done.exit_code:
            return _Jvm(target, command)
        seen.append(f"{tool}: {_last_line(done)}")
    brief = f"prepare: java: neither jattach nor jcmd can speak to a JVM as process {pid} of the container"
    hint = "install jattach in the image, and let the JVM be the process that the container starts"
    raise AppError(brief, details=seen, hint=hint)


def _exec(target: Target, command: Sequence[str]) -> ExecResult:
    try:
        return target.exec(command, COMMAND_S)
    except EngineError as error:
        return ExecResult(127, "", error.brief)
    except TimeoutError:
        return ExecResult(1, "", f"no answer within {COMMAND_S:g} s")


def _last_line(done: ExecResult) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.exit_code}"
