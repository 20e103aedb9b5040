"""What is found of the programs on a node, with a directory for its /usr and a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from warmstart.kube.node_programs import SCRIPT, make_fixes_document, parse_versions


def ask(usr: Path) -> dict[str, str]:
    script = SCRIPT.replace("NAMES", "runc crun criu")
    done = subprocess.run(["sh", "-c", f"usr={usr}\n{script}"], capture_output=True, text=True, check=True)
    return parse_versions(done.stdout)


def put(usr: Path, path: str, script: str, mode: int = 0o755) -> None:
    (usr / path).parent.mkdir(parents=True, exist_ok=True)
    (usr / path).write_text(f"#!/bin/sh\n{script}\n")
    (usr / path).chmod(mode)


def test_programs_say_their_versions(tmp_path):
    put(tmp_path, "sbin/runc", "echo runc version 1.4.4; echo spec: 1.2.1")
    put(tmp_path, "libexec/crio/crun", "echo crun version 1.28; echo commit: 1")
    put(tmp_path, "local/sbin/criu", "exit 127")
    put(tmp_path, "sbin/criu", "echo Version: 4.2.1; echo GitID: v4.2.1")
    assert ask(tmp_path) == {"runc": "1.4.4", "crun": "1.28", "criu": "4.2.1"}


def test_a_program_that_needs_the_nodes_libraries_is_run_with_its_loader(tmp_path):
    put(tmp_path, "sbin/runc", "echo runc version 1.5.3", mode=0o644)
    put(tmp_path, "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", '[ "$1" = --library-path ] && exec sh "$3" "$4"')
    assert ask(tmp_path) == {"runc": "1.5.3"}


@pytest.mark.parametrize("output", ["", "runc \nother version 1\n", "runc what\n"])
def test_what_is_not_known_is_left_out(tmp_path, output):
    assert ask(tmp_path) == {}
    assert parse_versions(output) == {}


def test_fixes_as_json():
    runc, crun, criu = make_fixes_document({"runc": "1.3.6", "criu": "4.3.1"})
    assert runc == {"program": "runc", "version": "1.3.6", "cve": "CVE-2026-119101", "fixed": False}
    assert crun == {"program": "crun", "version": None, "cve": "CVE-2026-115520", "fixed": None}
    assert criu["fixed"] is True
