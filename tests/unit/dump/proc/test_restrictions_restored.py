"""The restrictions of a program that CRIU restores with all privileges, as in a runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from warmstart.dump.edit.parents import clear_parent_death_signals

pytestmark = pytest.mark.node

TESTS = Path(__file__).parents[3]
SOURCES = (TESTS / "launcher/app.c", TESTS / "programs/restrained.c", TESTS / "programs/tuned.c")
RESTORED = ("dumpable", "files", "core", "umask", "reaper", "thp", "securebits", "privs", "locked", "undumped")


def test_restrictions_that_a_program_put_on_itself(machine, tmp_path):
    command = ["gcc", "-static", "-pthread", "-O1", "-o", tmp_path / "app", *SOURCES]
    subprocess.run(command, check=True, timeout=60)
    shutil.copy2(tmp_path / "app", machine.scratch / "app")
    pid = machine.start("app", "/scratch/app", "restrained")
    before = tell(machine, pid, 1)
    # It is lost unseen, so that a build of an image that restores itself does not have it; see docs/restrictions.md.
    assert before["mdwe_now"] == "1" or int(before["mdwe"]) < 0
    machine.dump(pid, "dump")
    assert clear_parent_death_signals(machine.scratch / "dump") == 1  # as the build does: CRIU is its parent, and ends
    machine.restore("dump")
    after = tell(machine, pid, 2)
    assert {name: after[name] for name in RESTORED} == {name: before[name] for name in RESTORED}
    assert int(after["mdwe_now"]) <= 0


def tell(machine, pid: int, times: int) -> dict[str, str]:
    """Return the program's report about itself."""
    machine.kill(pid, 10)
    said = machine.wait_for("app", "mdwe_now=", times)
    return dict(re.findall(r" (\w+)=(\S*)", said.splitlines()[-1]))
