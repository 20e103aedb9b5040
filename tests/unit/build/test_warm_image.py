"""The secrets that an earlier build gave its services, when its image runs beside new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmstart.build.warm_image import list_made_up, require_secrets
from warmstart.core.errors import RecipeError
from warmstart.recipe.load import parse_recipe
from warmstart.recipe.model import Recipe
from warmstart.recipe.warnings import list_unused_options

PROBE = {"tcpSocket": {"port": 1}}
REFERENCE = {"secretKeyRef": {"name": "db", "key": "password"}}
PASSWORD = {"name": "PASSWORD", "valueFrom": REFERENCE}
VOLUME = {"name": "db", "secret": {"secretName": "db"}}
MOUNT = {"name": "db", "mountPath": "/db"}
DATABASE = {"name": "postgres", "container": {"image": "postgres", "env": [PASSWORD], "readinessProbe": PROBE}}


def make(container: dict[str, Any], secrets: tuple[str, ...] = (), **more: Any) -> Recipe:
    document: dict[str, Any] = {
        "apiVersion": "warmstart/v1alpha1",
        "name": "app",
        "container": {"image": "app", "readinessProbe": PROBE, **container},
        "volumes": [VOLUME],
        "image": {"name": "app:warm"},
        "build": {"services": [DATABASE], "secrets": {"db": {"password": None}}},
        **more,
    }
    return parse_recipe(json.dumps(document), "the image", secrets=secrets)


@pytest.mark.parametrize(
    ("container", "where"),
    [
        ({"env": [PASSWORD]}, "PASSWORD"),
        ({"env": [PASSWORD, {"name": "URL", "value": "db://user:$(PASSWORD)@postgres"}]}, "PASSWORD, URL"),
        ({"env": [PASSWORD], "args": ["--password=$(PASSWORD)"]}, "PASSWORD, args"),
    ],
)
def test_a_frozen_secret_that_new_services_would_not_accept_is_required(container, where, tmp_path):
    with pytest.raises(RecipeError) as caught:
        require_secrets(make(container), "app:warm")
    error = caught.value
    assert error.brief == "app:warm needs the build's value of db.password"
    assert error.details[0] == f"db.password: kept in {where}, and postgres would get a new value"
    assert error.hint.startswith("add --secret db.password=FILE, or --recipe")
    file = tmp_path / "password"
    file.write_bytes(b"s3cret-of-the-build")
    recipe = make(container, (f"db.password={file}",))
    require_secrets(recipe, "app:warm")
    assert list_made_up(recipe) == []
    assert dict(recipe.services[0].container.env) == {"PASSWORD": "s3cret-of-the-build"}


def test_an_init_container_counts_as_a_service_does():
    init = {"name": "migrate", "image": "app", "volumeMounts": [MOUNT]}
    build = {"init": [{"container": "migrate"}], "secrets": {"db": {"password": None}}}
    with pytest.raises(RecipeError) as caught:
        require_secrets(make({"env": [PASSWORD]}, initContainers=[init], build=build), "app:warm")
    assert "and migrate would get a new value" in caught.value.details[0]


@pytest.mark.parametrize(
    ("container", "more", "made_up"),
    [
        # Read again.
        ({"env": [PASSWORD]}, {"late": ["*"], "restore": ["self"]}, ["db.password"]),
        # A mounted file is the new one.
        ({"volumeMounts": [MOUNT]}, {}, ["db.password"]),
        # Only the application has it.
        ({"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "a"}}}]}, {}, []),
        # Without services, nobody compares it.
        ({"env": [PASSWORD]}, {"build": {"secrets": {"db": {"password": None}}}}, []),
    ],
)
def test_other_secrets_are_made_up(container, more, made_up):
    recipe = make(container, **more)
    require_secrets(recipe, "app:warm")
    assert list_made_up(recipe) == made_up


def test_an_option_that_nothing_uses_is_named(tmp_path: Path):
    file = tmp_path / "password"
    file.write_bytes(b"x")
    recipe = make({"env": [PASSWORD]}, (f"db.pasword={file}",))
    assert list_unused_options(recipe) == ["--secret db.pasword: nothing in the recipe uses it"]
