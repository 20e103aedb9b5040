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
# The images of examples/shop are in a registry, as those of an application in a cluster: tests/kubernetes/test_shop.py.
RECIPES = sorted([*TOP.glob("recipes/*/*recipe.yaml"), TOP / "examples/java-app/recipe.yaml"])

pytestmark = pytest.mark.node


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.relative_to(TOP).parts[1:]))
def test_it_builds_and_restores(recipe, tree, cache, tmp_path) -> None:
    assert (TOP / "build/images" / f"{recipe.parent.name}.tar").exists(), "make images"
    built, steps = build(recipe, BuildOptions(cache, Output(Transport.OCI, tmp_path / "image")))
    restorers = [restore.restorer for restore in built.restores]
    assert restorers == [restorer for restorer in load_recipe(recipe).restore for _ in range(RESTORES)]
    # A database's connections are closed in a restored container, and the memory has its password.
    allowed = ("[tcp-established]", "the image holds build-only secrets: ") if load_recipe(recipe).services else ()
    assert [warning for warning in steps.warnings if not any(one in warning for one in allowed)] == []
    assert built.dump.memory.size_bytes > built.dump.pages_bytes / 2
