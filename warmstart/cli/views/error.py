"""Errors as documents for `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.core.errors import WarmstartError


def make_error_document(error: WarmstartError) -> Mapping[str, Any]:
    """Return an error as a JSON object."""
    return {
        "kind": error.kind,
        "message": error.brief,
        "details": list(error.details),
        "hint": error.hint,
        "exitCode": error.exit_code,
    }


def make_failure_document(recipe: str, error: WarmstartError) -> Mapping[str, Any]:
    """Return the document of a recipe that is wrong, or whose build failed."""
    return {"recipe": recipe, "status": "failed", "error": make_error_document(error)}
