"""How programs are compiled: the scripts, run by a real shell with a go that says what a module proxy gave it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from warmstart.node.programs import GoProgram
from warmstart.node.tree import CONTENTS

GO = """\
#!/bin/sh
case $1 in
    mod) printf '{{\\n\\t"Path": "example.com/app",\\n\\t"Dir": "{sources}",\\n\\t"Sum": "{sum}"\\n}}\\n' ;;
    build) pwd > {sources}/built; env > {sources}/environment ;;
esac
"""
PROGRAM = GoProgram("app", "example.com/app", "v1", "h1:good=", ".", ("seccomp",), "usr/bin")


def compile_with(tmp_path: Path, program: GoProgram, go: str) -> subprocess.CompletedProcess[str]:
    for name in ("bin", "sources", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/go").write_text(go)
    (tmp_path / "bin/go").chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = ["sh", "-c", program.script(tmp_path / "work")]
    return subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)


def test_a_module_with_the_right_hash_is_compiled(tmp_path):
    done = compile_with(tmp_path, PROGRAM, GO.format(sources=tmp_path / "sources", sum="h1:good="))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "sources/built").read_text() == f"{tmp_path}/sources\n"
    assert "GOTOOLCHAIN=local" in (tmp_path / "sources/environment").read_text()


@pytest.mark.parametrize("found", ["h1:evil=", "h1:good=x", ""])
def test_a_module_with_another_hash_is_not(tmp_path, found):
    done = compile_with(tmp_path, PROGRAM, GO.format(sources=tmp_path / "sources", sum=found))
    assert done.returncode == 1
    assert "example.com/app v1 has another hash than h1:good=" in done.stderr
    assert not (tmp_path / "sources/built").exists()


def test_a_proxy_that_fails_is_quoted(tmp_path):
    done = compile_with(tmp_path, PROGRAM, '#!/bin/sh\necho \'{"Error": "no such host"}\'; exit 1\n')
    assert done.returncode == 1
    assert "no such host" in done.stderr


def test_each_program_has_a_hash():
    assert all(program.sum.startswith("h1:") for program in CONTENTS.programs)
    script = replace(PROGRAM, helper=("pinns", "pinns/src")).script(Path("/out"))
    assert "gcc -std=c99 -Os -static -s -o /out/pinns pinns/src/*.c" in script
