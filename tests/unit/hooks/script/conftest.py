"""Fixtures of the tests of runtime hooks: real interpreters, and the FIFOs of a build."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from support.hooks import Hooks


@pytest.fixture
def hooks(tmp_path) -> Iterator[Hooks]:
    """Return the directory of a build's hooks."""
    opened = Hooks(tmp_path / "hooks")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def gcc() -> str:
    """Return the compiler."""
    return shutil.which("gcc") or pytest.skip("no gcc")
