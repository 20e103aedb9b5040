"""A secret on the command line: an image that restores itself would publish it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from warmstart.core.errors import RecipeError
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import Recipe, Restorer

PASSWORD = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
USER = {"name": "USER", "valueFrom": {"secretKeyRef": {"name": "db", "key": "username"}}}
SECRET = ["--user=$(USER)", "--password=$(PASSWORD)"]


def make(key: str, words: list[str], **more: Any) -> Recipe:
    container = {"image": "app", "readinessProbe": {"tcpSocket": {"port": 1}}, "env": [PASSWORD, USER], key: words}
    document = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "app",
        "container": container,
        "build": {"secrets": {"db": {"password": None, "username": "shop"}}},
        "image": {"name": "app:warm"},
        **more,
    }
    return parse_recipe(json.dumps(document), "recipe.yaml")


@pytest.mark.parametrize(
    ("more", "key"),
    [({"restore": ["self"]}, "args"), ({"restore": ["runtime", "self"], "late": ["PASSWORD"]}, "command")],
)
def test_an_image_that_restores_itself_does_not_publish_it(more, key):
    with pytest.raises(RecipeError) as caught:
        make(key, SECRET, **more)
    (line,) = caught.value.details
    assert line.startswith(f"recipe.yaml:1: container.{key}[1]: an image that restores itself has its command line")
    assert "this has the value of the secret db.password: let the program read the variable" in line


def test_other_command_lines_are_right():
    recipe = make("args", SECRET, restore=["runtime"])
    assert recipe.restore == (Restorer.RUNTIME,)
    assert recipe.warnings == ()
    recipe = make("args", ["--user=$(USER)", "sh", "-c", "exec app $PASSWORD"], restore=["self"])
    assert recipe.restore == (Restorer.SELF,)


def test_a_recipe_that_asks_for_no_restorer_goes_on_with_the_runtime(tmp_path):
    document = json.loads(make("args", SECRET).document)
    del document["restore"]
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.restore == (Restorer.RUNTIME,)
    assert json.loads(recipe.document)["restore"] == ["runtime"]
    (warning,) = [one for one in recipe.warnings if "restore itself" in one]
    assert "because container.args[1] has the value of the secret db.password" in warning
