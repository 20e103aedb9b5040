"""The recipe of examples/shop is the one that `warmstart init` writes, with additions that only a person can make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from warmstart.cli.main import cli
from warmstart.core.yaml_document import read_documents
from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import is_own

EXAMPLE = Path(__file__).parents[3] / "examples/shop"
ADDED = {"late", "afterRestore", "warmup", "prepare", "hooks", "restore"}


def read(path: Path) -> dict[str, Any]:
    """Read a recipe. Paths in it are reduced to their names."""
    [document] = read_documents(path.read_bytes(), path.name)
    recipe: dict[str, Any] = document.value
    recipe["build"]["objects"] = [Path(file).name for file in recipe["build"]["objects"]]
    for service in recipe["build"]["services"]:
        service["from"] = Path(service["from"]).name
    return recipe


@pytest.fixture
def proposed(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    done = CliRunner().invoke(cli, ["init", str(EXAMPLE / "k8s"), "--output", str(path)])
    assert done.exit_code == 0, done.output
    return path


def test_it_is_that_of_init_with_additions(proposed):
    recipe = read(EXAMPLE / "recipe.yaml")
    assert set(recipe) - set(read(proposed)) == ADDED
    container = recipe["container"]
    container["env"] = [variable for variable in container["env"] if not is_own(variable["name"])]
    assert {key: value for key, value in recipe.items() if key not in ADDED} == read(proposed)


def test_the_proposed_recipe_is_complete(proposed):
    recipe = load_recipe(proposed)
    assert [service.name for service in recipe.services] == ["postgres", "redis"]
    assert [container.name for container in recipe.init] == ["migrate"]
    assert recipe.close_tcp
