"""The secrets that were found in an image or archive, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from warmstart.core.text import Section, printable
from warmstart.image.secrets.report import find_fix, make_document
from warmstart.image.secrets.search import SearchResult

_MOST_SPOTS = 3


def make_secrets_section(result: SearchResult) -> Section:
    """Return the table of findings: a line each, and a note if not all are listed."""
    rows = [
        (one.kind, printable(f"{one.title} {one.excerpt}").strip(), str(one.count), printable(_tell(one.spots)), fix)
        for one in result.findings
        for fix in [find_fix(one)]
    ]
    if not result.is_complete:
        rows.append(("", "more than are listed here", "", "", ""))
    return Section("secrets", ("kind", "secret", "times", "where", "to be rid of it"), tuple(rows))


def make_secrets_document(name: str, result: SearchResult) -> dict[str, Any]:
    """Return the findings as a JSON object."""
    return {
        "name": name,
        "findings": [make_document(one) for one in result.findings],
        "complete": result.is_complete,
    }


def _tell(spots: Sequence[str]) -> str:
    more = len(spots) - _MOST_SPOTS
    return "; ".join([*spots[:_MOST_SPOTS], *([f"and {more} more"] if more > 0 else [])])
