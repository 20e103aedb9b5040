"""Every shipped recipe builds an image that restores."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.builds import build

from warmstart.build.context import BuildOptions
from warmstart.build.publish import Output
from warmstart.build.verify import RESTORES
from warmstart.core.reference import Transport
from warmstart.recipe.load import load_recipe

TOP = Path(__file__).parents[2]
RECIPES = sorted([*TOP.glob("recipes/*/*recipe.yaml"), *TOP.glob("examples/*/recipe.yaml")])

pytestmark = pytest.mark.node


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.relative_to(TOP).parts[1:]))
def test_it_builds_and_restores(recipe, tree, cache, tmp_path) -> None:
    assert (TOP / "build/images" / f"{recipe.parent.name}.tar").exists(), "make images"
    built, steps = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    restorers = [restore.restorer for restore in built.restores]
    assert restorers == [restorer for restorer in load_recipe(recipe).restore for _ in range(RESTORES)]
    assert steps.warnings == []
    assert built.dump.memory.size_bytes > built.dump.pages_bytes / 2
