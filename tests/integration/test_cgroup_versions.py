"""Images move between hosts with cgroup v1, or with both versions, and hosts with v2 only."""

from __future__ import annotations

import sys

import pytest
from support.builds import build, write_recipe
from support.unified import require_hybrid, run_unified

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport

pytestmark = pytest.mark.node


def test_what_was_built_here_restores_where_there_is_only_v2(base_archive, cache, tmp_path):
    require_hybrid()
    # As Go's runtime does with the file of its limit.
    container = {"env": [{"name": "HOLD", "value": "/sys/fs/cgroup/cpu/cpu.shares"}]}
    recipe = write_recipe(tmp_path / "recipe.yaml", base_archive, "localhost/tests/cgroup:1", container)
    build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    verify = [sys.executable, "-m", "warmstart", "--cache-dir", cache, "verify", f"oci:{tmp_path}/image"]
    assert run_unified(verify).count("restored, ready after") == 2
