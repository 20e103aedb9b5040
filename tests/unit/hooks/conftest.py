"""Java's agent, and the programs that run with it: compiled once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.java_agent import HooksDirectory, build_agent, compile_java
from support.once import MakeOnce

PROGRAMS = Path(__file__).with_name("java")


@pytest.fixture(scope="session")
def agent(make_once: MakeOnce) -> Path:
    for program in ("javac", "jar", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    return make_once("agent", build_agent) / "agent.jar"


@pytest.fixture(scope="session")
def programs(agent: Path, make_once: MakeOnce) -> Path:
    return make_once(
        "hook-programs", lambda directory: compile_java(sorted(PROGRAMS.rglob("*.java")), agent, directory)
    )


@pytest.fixture
def java_hooks(tmp_path: Path) -> Iterator[HooksDirectory]:
    directory = HooksDirectory(tmp_path)
    yield directory
    directory.close()
