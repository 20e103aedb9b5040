"""A finding of the checks before the dump: one problem in one process, and its fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Named(Protocol):
    """A process, running or in a dump."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def name(self) -> str:
        """Its name, as the kernel has it."""


class Severity(StrEnum):
    """ERROR would fail the dump or the restore; WARNING may, or changes what the application sees."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that a dump or its restore would stumble over.

    Attributes:
        code: short and stable, such as `tcp-established`.
        pid: of the process, as numbered by the procfs that was read.
        process: its name.
        what: one sentence that says what it holds.
        fix: one sentence that says what to do about it.
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


def once_each(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What several processes share, such as an inherited descriptor, only for the first of them."""
    unique: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        unique.setdefault((finding.code, finding.what), finding)
    return tuple(unique.values())
