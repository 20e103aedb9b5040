"""The manifests of tests/unit/recipe/manifests, and the expected answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MANIFESTS = Path(__file__).parents[1] / "unit" / "recipe" / "manifests"


@cache
def read_expected() -> list[dict[str, Any]]:
    """Return the items of expected.yaml, which takes a moment to read."""
    items: list[dict[str, Any]] = YAML(typ="safe").load(MANIFESTS / "expected.yaml")
    return items
