"""What a recipe says of secrets in its image, and the values that must not be in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.build.key import digest_secrets
from warmstart.core.errors import RecipeError
from warmstart.recipe.load import load_recipe, parse_recipe
from warmstart.recipe.model import AllowedSecret, OnSecret, Recipe, SecretSearch

DOCUMENT = {
    "apiVersion": "warmstart/v1alpha1",
    "name": "shop",
    "container": {
        "image": "registry.example.com/shop:1",
        "env": [
            {"name": "API_TOKEN", "value": "kx7-api-token"},
            {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
            {"name": "MADE_UP", "valueFrom": {"secretKeyRef": {"name": "db", "key": "other"}}},
        ],
        "readinessProbe": {"tcpSocket": {"port": 80}, "failureThreshold": 120},
    },
    "build": {"secrets": {"db": {"password": "kx7-password", "other": None}}},
    "image": {"name": "registry.example.com/shop:warm"},
}


def load(directory: Path, **search: object) -> Recipe:
    path = directory / "recipe.yaml"
    path.write_text(json.dumps({**DOCUMENT, "secrets": search}))
    return load_recipe(path)


def test_without_the_key_it_is_automatic(tmp_path):
    assert load(tmp_path).secret_search == SecretSearch(OnSecret.AUTO)


def test_real_values_are_keys_of_secrets_variables_and_lines_of_files(tmp_path):
    (tmp_path / "prod.env").write_bytes(b"# production\n\nexport KEY='one two'\nURL=a=b\n  only-a-value\n=x\n")
    recipe = load(tmp_path, found="refuse", real=["db.password", "API_TOKEN"], files=["prod.env"])
    assert {one.name: one.value for one in recipe.secret_search.real} == {
        "db.password": b"kx7-password",
        "API_TOKEN": b"kx7-api-token",
        "KEY": b"one two",
        "URL": b"a=b",
        "prod.env:5": b"only-a-value",
        "prod.env:6": b"=x",
    }
    assert recipe.secret_search.on_found is OnSecret.REFUSE


def test_allowed_secrets_need_a_reason(tmp_path):
    entry = {"kind": "jwt", "place": "file /app/*", "reason": "samples of the tests"}
    assert load(tmp_path, allow=[entry]).secret_search.allowed == (
        AllowedSecret("jwt", "samples of the tests", place="file /app/*"),
    )
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, allow=[{"kind": "jwt"}])
    assert "secrets.allow[0].reason: missing" in caught.value.details[0]


def test_a_name_that_is_nothing_is_an_error(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, real=["db.pasword"])
    assert "secrets.real[0]: expected a key of a Secret or a variable, got db.pasword" in caught.value.details[0]


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match=r"missing\.env"):
        load(tmp_path, files=["missing.env"])


def test_the_image_has_what_is_allowed_and_not_what_is_real(tmp_path):
    (tmp_path / "prod.env").write_text("KEY=value-of-production")
    entry = {"kind": "jwt", "reason": "samples"}
    recipe = load(tmp_path, found="warn", real=["API_TOKEN"], files=["prod.env"], allow=[entry])
    assert json.loads(recipe.document)["secrets"] == {"found": "warn", "allow": [entry]}
    again = parse_recipe(recipe.document, "the image").secret_search
    assert (again.on_found, again.real, again.allowed) == (OnSecret.WARN, (), recipe.secret_search.allowed)


def test_real_values_are_part_of_the_key_of_a_build(tmp_path):
    """Except those that are made up anew each time."""
    first = digest_secrets(load(tmp_path))
    assert digest_secrets(load(tmp_path, real=["API_TOKEN"])) != first
    assert digest_secrets(load(tmp_path, real=["MADE_UP", "db.other"])) == first
