"""The base image of a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.build.base import find_source, pin_source
from warmstart.core.errors import ImageReferenceError
from warmstart.core.reference import Source, parse_source
from warmstart.recipe.model import Container, Recipe

DIGEST = f"sha256:{0:064}"


def make_recipe(image: str, source: Path | None = None) -> Recipe:
    return Recipe("app", Container(image=image), "registry.example.com/app:1-warm", source=source)


def test_a_relative_path_starts_at_the_recipes_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = find_source(make_recipe("oci-archive:../base.tar", Path("recipes/app/recipe.yaml")))
    assert source.path == tmp_path / "recipes/app/../base.tar"
    assert find_source(make_recipe("oci-archive:/base.tar", Path("recipe.yaml"))).path == Path("/base.tar")
    # A recipe from standard input, or in an image: the node's programs do not run in the current directory.
    assert find_source(make_recipe("oci-archive:base.tar")).path == tmp_path / "base.tar"


def test_a_name_in_a_registry_has_no_path(tmp_path):
    source = find_source(make_recipe("registry.example.com/base:1", tmp_path / "recipe.yaml"))
    assert source == parse_source("registry.example.com/base:1")


def test_an_image_that_is_not_understood_is_the_recipes_fault():
    with pytest.raises(ImageReferenceError):
        find_source(make_recipe("Not A Name"))


def test_a_name_in_a_registry_is_pinned_to_what_it_stood_for():
    assert str(pin_source(parse_source("registry.example.com/base:1"), DIGEST)).endswith(f"@{DIGEST}")
    archive = parse_source("oci-archive:base.tar")
    assert pin_source(archive, DIGEST) is archive
    assert isinstance(archive, Source)
