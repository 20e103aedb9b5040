"""Inputs that once made a reader fail, and those that each target begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import SEEDS, TARGETS

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.glob("*/*") if path.parent.name in TARGETS)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_targets_take_what_they_begin_with(name: str) -> None:
    seeds = SEEDS[name]()
    assert seeds
    for seed in seeds[:5]:
        TARGETS[name](seed)
