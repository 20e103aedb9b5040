"""A build writes files only to its workspace: it works with a read-only /tmp."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.builds import write_recipe

pytestmark = pytest.mark.node

# The checkout itself may be below /tmp.
READ_ONLY = 'mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && exec "$@"'


def test_a_build_needs_no_tmp(base_archive, cache, area):
    place = Path(area, "no-tmp")
    place.mkdir()
    recipe = write_recipe(place / "recipe.yaml", base_archive, "localhost/tests/no-tmp:1")
    build = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "build", recipe, "-o", f"oci:{place}/out"]
    environment = {**os.environ, "WARMSTART_TMPDIR": str(place), "TMPDIR": "/tmp"}
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *build]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["out", "recipe.yaml"]
