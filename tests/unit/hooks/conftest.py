"""Java's agent, and the programs that run with it: compiled once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.java_agent import HooksDirectory, build_agent, compile_java

PROGRAMS = Path(__file__).with_name("java")


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for program in ("javac", "jar", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    return build_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="session")
def programs(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_java(sorted(PROGRAMS.glob("*.java")), agent, tmp_path_factory.mktemp("programs"))


@pytest.fixture
def java_hooks(tmp_path: Path) -> Iterator[HooksDirectory]:
    directory = HooksDirectory(tmp_path)
    yield directory
    directory.close()
