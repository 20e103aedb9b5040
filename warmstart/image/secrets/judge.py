"""Decide whether an image may be published with the secrets that were found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from warmstart.core.errors import SecretError
from warmstart.core.progress import Progress
from warmstart.image.secrets.forms import SHORTEST_BYTES, is_common, list_forms
from warmstart.image.secrets.record import FoundSecret
from warmstart.image.secrets.report import describe, find_fix, make_document
from warmstart.image.secrets.scan import KNOWN
from warmstart.image.secrets.search import Finding, SearchResult
from warmstart.recipe.model import AllowedSecret, OnSecret, Secret, SecretSearch

_HELD = "the image holds build-only secrets: "
_HELD_TOO = "the image holds a secret: "
_NOT_SOUGHT = "the image is not searched for "
#: How each warning begins that names secrets.
OWN_WARNINGS = (_HELD, _HELD_TOO, _NOT_SOUGHT)

_INCOMPLETE = "the search for secrets is not complete: there is too much in the image that looks like one"
_MOST_WARNINGS = 20


@dataclass(frozen=True)
class JudgedFinding:
    """A finding, and what the user says of it.

    Attributes:
        finding: the finding.
        reasons: why it may be in the image, of the user's entries for it; empty if it is not allowed.
        is_refused: whether the image must not be published with it.
    """

    finding: Finding
    reasons: tuple[str, ...]
    is_refused: bool

    @property
    def document(self) -> Mapping[str, Any]:
        """The finding as JSON, without any value."""
        return {**make_document(self.finding), "allowed": list(self.reasons) or None, "refused": self.is_refused}


def judge_findings(
    result: SearchResult, search: SecretSearch, progress: Progress, hint: str
) -> tuple[JudgedFinding, ...]:
    """Judge all findings of a search, and warn of those that are neither refused nor allowed.

    Args:
        result: of the search.
        search: what the user refuses and allows.
        progress: progress reporter.
        hint: how to go on if one is refused.

    Raises:
        SecretError: a finding is refused.
    """
    judged = tuple(_judge(finding, search) for finding in result.findings)
    if not result.is_complete:
        progress.warn(_INCOMPLETE)
    _refuse(judged, hint)
    _warn_of_findings(judged, search, progress)
    return judged


def choose_secrets(
    secrets: Sequence[Secret], progress: Progress, is_public: Callable[[Secret], bool] = lambda _: False
) -> list[Secret]:
    """Choose the values to search for, and warn of the others.

    Args:
        secrets: the values.
        progress: progress reporter.
        is_public: whether a value is part of a name that everybody reads.
    """
    short = [one for one in secrets if not list_forms(one.value)]
    common = [one for one in secrets if one not in short and is_common(one.value)]
    public = [one for one in secrets if one not in short and one not in common and is_public(one)]
    if short:
        _warn_of(short, f"shorter than {SHORTEST_BYTES} bytes", progress)
    if common:
        _warn_of(common, "too common to tell anything", progress)
    if public:
        _warn_of(public, "also part of a name in the recipe", progress)
    return [one for one in secrets if one not in short and one not in common and one not in public]


def _judge(finding: Finding, search: SecretSearch) -> JudgedFinding:
    """Decide on a finding. It is allowed if an entry of the user allows it at each of its places."""
    reasons = [_find_reason(finding, place, search.allowed) for place in finding.places]
    allowed = tuple(dict.fromkeys(one for one in reasons if one)) if all(reasons) else ()
    is_real = finding.kind == KNOWN and finding.title in {one.name for one in search.real}
    refuses = search.on_found is OnSecret.REFUSE or (search.on_found is OnSecret.AUTO and is_real)
    return JudgedFinding(finding, allowed, refuses and not allowed)


def _find_reason(finding: Finding, place: str, allowed: Sequence[AllowedSecret]) -> str:
    for one in allowed:
        if (
            fnmatchcase(finding.kind, one.kind)
            and fnmatchcase(finding.title, one.name)
            and fnmatchcase(place, one.place)
        ):
            return one.reason
    return ""


def _refuse(judged: Sequence[JudgedFinding], hint: str) -> None:
    """Refuse the image if a finding ends the build.

    Raises:
        SecretError: one does.
    """
    refused = [one.finding for one in judged if one.is_refused]
    if not refused:
        return
    lines = [line for one in refused[:_MOST_WARNINGS] for line in (describe(one), f"  to fix: {find_fix(one)}")]
    more = len(refused) - _MOST_WARNINGS
    raise SecretError(
        f"the image holds {len(refused)} secret{'s' * (len(refused) != 1)} that must not be published",
        details=[*lines, *([f"and {more} more"] if more > 0 else [])],
        hint=f"nothing was published: {hint}",
    )


def _warn_of_findings(judged: Sequence[JudgedFinding], search: SecretSearch, progress: Progress) -> None:
    """Warn of findings that are not allowed: all build-only ones in one line, and others in a line each."""
    real = {one.name for one in search.real}
    findings = [one.finding for one in judged if not one.reasons]
    held = [one for one in findings if one.kind == KNOWN and one.title not in real]
    if held:
        progress.warn(_HELD + ", ".join(str(FoundSecret(one.title, one.places)) for one in held))
    others = [one for one in findings if one not in held]
    for one in others[:_MOST_WARNINGS]:
        progress.warn(f"{_HELD_TOO}{describe(one)}")
    if len(others) > _MOST_WARNINGS:
        progress.warn(f"{_HELD_TOO}and {len(others) - _MOST_WARNINGS} more: see the findings of --json")


def _warn_of(left_out: Sequence[Secret], why: str, progress: Progress) -> None:
    names = ", ".join(sorted({one.name for one in left_out}))
    values = "a value that is" if len(left_out) == 1 else "values that are"
    progress.warn(f"{_NOT_SOUGHT}{names}: {values} {why}")
