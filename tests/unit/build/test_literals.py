"""Variables of a recipe that its image may contain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from warmstart.build.literals import find_command_line, find_literals
from warmstart.core.reference import parse_reference
from warmstart.recipe.model import Container, Recipe, Secret

REF = {"secretKeyRef": {"name": "db", "key": "password"}}


def make(env: list[dict[str, Any]], values: dict[str, str], *secrets: Secret) -> Recipe:
    document = json.dumps({"container": {"image": "base", "env": env}})
    container = Container("base", env=tuple(values.items()))
    return Recipe("app", container, parse_reference("localhost/app:1"), secrets=secrets, document=document)


def test_only_literal_values_are():
    env = [
        {"name": "MODE", "value": "fast"},
        {"name": "PASSWORD", "valueFrom": REF},
        {"name": "URL", "value": "db://$(PASSWORD)@host"},
        {"name": "AGAIN", "value": "$(URL)"},
        {"name": "TEXT", "value": "$(MODE) $$(PASSWORD) $(NOBODY)"},
    ]
    values = {
        "MODE": "fast",
        "PASSWORD": "p",
        "URL": "db://p@host",
        "AGAIN": "db://p@host",
        "TEXT": "fast $(PASSWORD) $(NOBODY)",
        "FROM_ELSEWHERE": "of envFrom",
    }
    assert dict(find_literals(make(env, values))) == {"MODE": "fast", "TEXT": "fast $(PASSWORD) $(NOBODY)"}


def test_the_last_of_two_counts():
    env = [{"name": "A", "value": "x"}, {"name": "A", "valueFrom": REF}]
    assert find_literals(make(env, {"A": "y"})) == ()


def test_a_reference_to_a_variable_from_elsewhere_is_none():
    env = [{"name": "A", "value": "$(FROM_ELSEWHERE)"}]
    assert find_literals(make(env, {"FROM_ELSEWHERE": "x", "A": "x"})) == ()


def test_a_literal_that_has_a_secret_in_it_is_none():
    env = [{"name": "A", "value": "db://hidden@host"}, {"name": "B", "value": "b"}]
    values = {"A": "db://hidden@host", "B": "b"}
    found = find_literals(make(env, values, Secret("db.password", b"hidden"), Secret("db.empty", b"")))
    assert found == (("B", "b"),)


def test_without_a_document_there_are_none():
    recipe = Recipe("app", Container("base", env=(("A", "b"),)), parse_reference("localhost/app:1"), source=Path("x"))
    assert find_literals(recipe) == ()


def test_a_long_value_takes_no_square_of_its_length():
    value = "$(" * 300_000
    assert dict(find_literals(make([{"name": "A", "value": value}], {"A": value}))) == {"A": value}


def test_a_command_line_has_references_in_place_of_secrets():
    recipe = make([], {}, Secret("db.password", b"of-the-build"))
    container = Container("base", command=("app", "--mode=fast"), args=("--password=of-the-build", "last"))
    words = {"command": ["app", "--mode=$(MODE)"], "args": ["--password=$(PASSWORD)", "last"]}
    recipe = replace(recipe, container=container, document=json.dumps({"container": words}))
    assert find_command_line(recipe) == ("app", "--mode=fast", "--password=$(PASSWORD)", "last")
    assert find_command_line(replace(recipe, secrets=())) == container.command + container.args
