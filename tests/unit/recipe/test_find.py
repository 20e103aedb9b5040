"""The recipes that a command line names."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.core.errors import RecipeError
from warmstart.recipe.find import find_recipes

RECIPE = "apiVersion: warmstart/v1alpha1\nname: app\n"


@pytest.fixture
def directory(tmp_path) -> Path:
    for name in ("b.yaml", "a.yml", "c.json", "below/d.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(RECIPE)
    (tmp_path / "deployment.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n")
    (tmp_path / "values.yaml").write_text("replicas: 2\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    return tmp_path


def test_a_directory_stands_for_the_recipes_in_it(directory):
    assert find_recipes([directory]) == (directory / "a.yml", directory / "b.yaml")


def test_a_file_is_taken_as_it_is_in_the_order_given(directory):
    names = [directory / "deployment.yaml", Path("-"), directory / "below", Path("missing.yaml")]
    assert find_recipes(names) == (*names[:2], directory / "below/d.yaml", names[3])


def test_a_directory_without_a_recipe_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="no recipe in the directory"):
        find_recipes([tmp_path])


def test_a_file_that_is_not_yaml_is_not_skipped(directory):
    (directory / "broken.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        find_recipes([directory])


@pytest.mark.parametrize("again", ["b.yaml", "below/../b.yaml"])
def test_a_recipe_that_is_named_twice_is_an_error(directory, again):
    with pytest.raises(RecipeError, match="named twice"):
        find_recipes([directory, directory / again])
