"""Every shipped recipe builds an image that restores."""

from __future__ import annotations

import pytest
from support.recipes import TOP, build_once

from warmstart.build.verify import RESTORES
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Hooks

# The images of examples/shop are in a registry, as those of an application in a cluster: tests/kubernetes/test_shop.py.
RECIPES = sorted([*TOP.glob("recipes/*/*recipe.yaml"), TOP / "examples/java-app/recipe.yaml"])

pytestmark = pytest.mark.node


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.relative_to(TOP).parts[1:]))
def test_it_builds_and_restores(recipe, tree, cache, make_once) -> None:
    _, built = build_once(make_once, recipe, cache)
    assert built.restorers == [restorer for restorer in load_recipe(recipe).restore for _ in range(RESTORES)]
    # The limit is short.
    allowed = ["raise its limitSeconds"]
    if load_recipe(recipe).services:
        # Its connections to a database are closed in a restored container, and the memory has the password.
        allowed += ["[tcp-established]", "the image holds build-only secrets: "]
    assert [warning for warning in built.warnings if not any(one in warning for one in allowed)] == []
    assert bool(built.hooks) == (load_recipe(recipe).hooks is not Hooks.NONE)
    assert built.mapped_bytes > built.pages_bytes / 2
