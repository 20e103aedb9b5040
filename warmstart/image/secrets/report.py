"""Findings for a user: as a line, as JSON, and how to be rid of them. No value is in any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.image.secrets.scan import MORE
from warmstart.image.secrets.search import Finding

_SHOWN_SPOTS = 2
_FIXES = {
    "memory": "let the application get it after the restore, or drop it in a hook before the checkpoint",
    "environment": "give the container another value, or let the application read it from a file after the restore",
    "command line": "pass it in a file that is read after the restore",
    "manifest": "take it out of the recipe or the pod",
    "config": "take it out of the recipe or the pod",
}
_FIXES["checkpoint"] = _FIXES["memory"]
_FIX_OF_FILE = "remove the file in beforeCheckpoint, or leave it out of the image"


def describe(finding: Finding) -> str:
    """Return a line with the kind, a masked excerpt, and where it was found."""
    spots = [*finding.spots[:_SHOWN_SPOTS], *(["more places"] if len(finding.spots) > _SHOWN_SPOTS else [])]
    times = f", {finding.count} times" if finding.count > 1 else ""
    excerpt = f" {finding.excerpt}" if finding.excerpt else ""
    return f"{finding.title}{excerpt}{times}: {'; '.join(spots)}"


def find_fix(finding: Finding) -> str:
    """Return how to be rid of a finding."""
    places = [place for place in finding.places if place != MORE]
    known = [_FIXES[place] for place in places if place in _FIXES]
    others = [_FIX_OF_FILE for place in places if place not in _FIXES]
    return "; ".join(dict.fromkeys([*others, *known]))


def make_document(finding: Finding) -> Mapping[str, Any]:
    """Return a finding as a JSON object."""
    return {
        "kind": finding.kind,
        "name": finding.title,
        "excerpt": finding.excerpt,
        "count": finding.count,
        "places": list(finding.places),
        "found": list(finding.spots),
        "fix": find_fix(finding),
    }
