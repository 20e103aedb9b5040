"""The schema itself: fit for editors and messages, and in step with the model."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from warmstart.recipe.load import load_recipe
from warmstart.recipe.model import Recipe, Restorer
from warmstart.recipe.schema import Schema, recipe_schema, resolved, schema_at, schema_text


def properties(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """All that a recipe may hold: (path, resolved schema)."""
    inner = {**schema.get("properties", {}), **schema.get("patternProperties", {})}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            inner["*"] = schema[key]
    for key, value in inner.items():
        yield f"{path}/{key}", resolved(value)
        yield from properties(resolved(value), f"{path}/{key}")


ALL = dict(properties(recipe_schema()))


def test_it_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(recipe_schema())
    assert recipe_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", ALL)
def test_every_property_has_a_title_and_a_description(path: str) -> None:
    title, description = ALL[path]["title"], ALL[path]["description"]
    # A title follows "expected", so it neither begins nor ends as a sentence does.
    assert re.search(r"^(?!(The|A|An) ).*[^.]$", title)
    assert re.search(r"^[A-Z].*\.$", description)
    # A table's cell is one line without bars.
    assert "|" not in description
    assert "\n" not in description


def test_every_mapping_refuses_unknown_keys() -> None:
    for path, schema in ALL.items():
        if schema.get("type") == "object":
            assert "additionalProperties" in schema, path


def test_every_definition_is_used() -> None:
    used = set(re.findall(r'"#/\$defs/(\w+)"', schema_text()))
    assert used == set(recipe_schema()["$defs"])


def test_patterns_use_a_dollar_at_the_end_only() -> None:
    # The validator gives ECMA 262's meaning to this one.
    for pattern in re.findall(r'"pattern": "(.*)"', schema_text()):
        assert "$" not in pattern[:-1]


def test_restorers_are_those_of_the_model() -> None:
    schema = schema_at(("restore", 0))
    assert schema is not None
    assert schema["enum"] == [restorer.value for restorer in Restorer]


def test_schema_at() -> None:
    assert (schema_at(("container", "env", 3, "value")) or {})["type"] == "string"
    assert (schema_at(("image", "labels", "any.name")) or {})["title"] == "a string"
    assert (schema_at(("container", "resources", "limits", "a.example/b")) or {})["title"] == "not accepted"
    assert schema_at(("container", "nothing", "below")) is None
    assert schema_at(("name", 0)) is None


def with_defaults(value: Any, schema: Schema) -> Any:
    """The value with all defaults that the schema names written out."""
    if isinstance(value, list):
        return [with_defaults(item, resolved(schema["items"])) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    inner = {key: resolved(item) for key, item in schema["properties"].items()}
    full = {key: item["default"] for key, item in inner.items() if "default" in item} | value
    return {key: with_defaults(item, inner[key]) for key, item in full.items()}


def test_defaults_are_those_of_the_model(tmp_path: Path) -> None:
    step: dict[str, Any] = {"httpGet": {"port": 1}}
    small = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "a",
        "container": {
            "image": "b",
            "ports": [{"containerPort": 1}],
            "securityContext": {"capabilities": {}},
            "readinessProbe": {"grpc": {"port": 1}},
            "startupProbe": step,
        },
        "warmup": [step],
        "beforeCheckpoint": [],
        "image": {"name": "c"},
    }
    full = with_defaults(small, recipe_schema())
    assert full["warmup"][0]["timeoutSeconds"] == 30
    recipes: list[Recipe] = []
    for document in (small, full):
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(document))
        recipes.append(dataclasses.replace(load_recipe(path), document="", restore_is_default=False))
    assert recipes[0] == recipes[1]
