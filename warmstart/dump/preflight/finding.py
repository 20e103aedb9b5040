"""Findings of the checks before the dump: each is one problem in one process, with a fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Named(Protocol):
    """A process, running or in a dump."""

    @property
    def pid(self) -> int:
        """Process number."""

    @property
    def name(self) -> str:
        """Process name in the kernel."""


class Severity(StrEnum):
    """ERROR would fail the dump or the restore; WARNING may, or the application may notice."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """A problem for a dump or its restore.

    Attributes:
        code: short, stable code, such as `tcp-established`.
        pid: PID of the process in the procfs that was read.
        process: name of the process.
        what: the problem, in one sentence.
        fix: the suggested fix, in one sentence.
    """

    severity: Severity
    code: str
    pid: int
    process: str
    what: str
    fix: str

    @property
    def is_error(self) -> bool:
        """Whether the dump or the restore would fail."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        return f"{self.process} (process {self.pid}): {self.what} {self.fix} [{self.code}]"


def error(code: str, process: Named, what: str, fix: str) -> Finding:
    """Return a finding that would fail the dump or the restore."""
    return Finding(Severity.ERROR, code, process.pid, process.name, what, fix)


def warning(code: str, process: Named, what: str, fix: str) -> Finding:
    """Return a finding that may fail the restore, or that the application may notice."""
    return Finding(Severity.WARNING, code, process.pid, process.name, what, fix)


def deduplicate(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Report a finding that several processes share, such as an inherited descriptor, only for the first of them."""
    unique: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        unique.setdefault((finding.code, finding.what), finding)
    return tuple(unique.values())
