"""Files that an application has changed or holds are as they were after a restore, by each restorer."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.builds import build, write_recipe

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.core.reference import Transport

IMAGE = Path(__file__).parents[2] / "build/images/python.tar"
PROGRAM = Path(__file__).parents[1] / "programs/changed_files.py"

pytestmark = pytest.mark.node


@pytest.mark.parametrize("restore", [["runtime"], ["runtime", "self"]], ids=["runtime", "both"])
def test_files_are_as_they_were(tree, cache, tmp_path, restore):
    assert IMAGE.exists(), "make images"
    context = {"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}
    container = {"command": ["python3", "-u", "-c"], "args": [PROGRAM.read_text()], "securityContext": context}
    recipe = write_recipe(tmp_path / "recipe.yaml", IMAGE, "localhost/tests/files:1", container, restore=restore)
    result, steps = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    assert {each.restorer for each in result.restores} == set(restore)
    assert steps.warnings == []
