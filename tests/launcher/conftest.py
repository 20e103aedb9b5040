"""Compile the launcher for tests with this machine's compiler, with a directory of the test instead of /.warmstart."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.once import MakeOnce

LAUNCHER = Path(__file__).parents[2] / "launcher"
SOURCES = sorted((LAUNCHER / "src").glob("*.c"))
# So much that the launcher waits for CRIU for a minute more: the machine may be busy.
PAGES_BYTES = 6 * 10**9
CC = ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]


@dataclass
class Place:
    """The launcher, and the directory that it uses as /.warmstart.

    Attributes:
        pages_bytes: size of its pages, which are sparse.
    """

    directory: Path
    launcher: Path
    pages_bytes: int = PAGES_BYTES

    def write_manifest(self, command: Sequence[str] = ("true",), **changes: str | None) -> None:
        """Write a manifest for this process and machine. `changes` replace lines by key or, with None, omit them."""
        checkpoint = self.directory / "checkpoint"
        checkpoint.mkdir(exist_ok=True)
        with (checkpoint / "pages-1.img").open("wb") as pages:
            pages.truncate(self.pages_bytes)
        lines: dict[str, str | None] = {
            "user": str(os.geteuid()),
            "group": str(os.getegid()),
            "groups": " ".join(map(str, os.getgroups())),
            "pid": "100",
            "stdout": "11",
            "stderr": "12",
            "file": f"{self.pages_bytes} pages-1.img",
            "listen": None,
            "late": "*",
            "cpu": "",
            "monotonic": "1000",
            "boottime": "1000",
            **changes,
        }
        lines = {"end": "", **lines}
        lines["end"] = lines.pop("end")
        text = "warmstart 1\n" + "".join(f"argument {word}\n" for word in command)
        text += "".join(f"{key} {value}".rstrip() + "\n" for key, value in lines.items() if value is not None)
        (self.directory / "manifest").write_text(text)

    def write_criu(self, script: str) -> None:
        """Write a stand-in for criu."""
        program = self.directory / "criu"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run the launcher's start mode to its end."""
        argv = [str(self.launcher), "start", "--", *command]
        full = {"PATH": os.environ["PATH"], **(env or {})}
        return subprocess.run(argv, env=full, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> tuple[Path, Path]:
    """Return the launcher and its directory."""
    directory = tmp_path_factory.mktemp("launcher")
    program, place = directory / "launcher", directory / "place"
    subprocess.run([*CC, "-O1", f'-DWARMSTART_DIR="{place}"', "-o", program, *SOURCES], check=True)
    return program, place


@pytest.fixture
def place(compiled) -> Place:
    """Return the launcher with an empty directory."""
    program, directory = compiled
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return Place(directory, program)


def compile_parsers(program: Path) -> None:
    """Compile the launcher's parsers with sanitizers."""
    sources = [source for source in SOURCES if source.name != "main.c"]
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("parsers.c")
    subprocess.run([*CC, *sanitizers, "-I", LAUNCHER / "src", "-o", program, source, *sources], check=True)


@pytest.fixture(scope="session")
def parse(make_once: MakeOnce) -> Callable[..., str]:
    """Run one of the launcher's parsers on a text, with sanitizers, and return its result."""
    program = make_once("parsers", compile_parsers)

    def run(*arguments: str, text: str | bytes) -> str:
        data = text.encode() if isinstance(text, str) else text
        env = {"ASAN_OPTIONS": "detect_leaks=0"}  # what parsers allocate lives as long as the launcher
        done = subprocess.run([program, *arguments], input=data, capture_output=True, check=False, env=env)
        assert done.returncode == 0, (done.stderr + done.stdout).decode(errors="replace")
        return done.stdout.decode(errors="replace")

    return run
