"""The protocol in Go, as recipes/go implements it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.hooks import SOURCES, TIMEOUT_S

MAIN = """
package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

func main() {
	after := func() error {
		if os.Getenv("FAILS") != "" {
			return errors.New("no pool")
		}
		fmt.Println("after")
		return nil
	}
	serveHooks(func() error { fmt.Println("before"); return nil }, after)
	for _, err := os.Stat(os.Getenv("END")); err != nil; _, err = os.Stat(os.Getenv("END")) {
		time.Sleep(10 * time.Millisecond)
	}
}
"""


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("go") is None, reason="no go")
def test_gos_hooks_are_called(hooks, tmp_path):
    for name in ("hooks.go", "go.mod"):
        shutil.copy(SOURCES.parent / "recipes/go" / name, tmp_path)
    (tmp_path / "main.go").write_text(MAIN)
    subprocess.run(["go", "build", "-o", "app", "."], cwd=tmp_path, check=True)
    for fails in ("", "yes"):
        program = hooks.start([tmp_path / "app"], {"FAILS": fails, "END": str(tmp_path / f"end{fails}")})
        assert hooks.events(1) == [{"pid": program.pid, "event": "registered", "runtime": "go"}]
        assert hooks.request_checkpoint()[0]["event"] == "checkpoint"
        if not fails:
            assert hooks.give_up()[0]["event"] == "restored"
            (tmp_path / "end").touch()
            assert program.communicate(timeout=TIMEOUT_S) == ("before\nafter\n", "")
    hooks.move_elsewhere(program.pid)
    assert hooks.events(1)[0]["error"] == "no pool"
    _, errors = program.communicate(timeout=TIMEOUT_S)
    assert (program.returncode, errors) == (70, "warmstart: after-restore hook failed: no pool\n")
