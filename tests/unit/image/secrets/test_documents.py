"""Secrets in documents, and documents in them."""

from __future__ import annotations

import base64
import json

import pytest

from warmstart.image.secrets.documents import find_in_document
from warmstart.image.secrets.finder import Finder
from warmstart.recipe.model import Secret

VALUE = 'corr"ect <horse>'
FINDER = Finder([Secret("db.password", VALUE.encode()), Secret("db.other", b"not-to-be-found")])


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"config": {"Labels": {"owner": f"by {VALUE}"}}}, "config: config: Labels: owner"),
        ({"config": {"Cmd": ["app", f"--password={VALUE}"]}}, "config: config: Cmd[1]"),
        ({"note": json.dumps({"env": [{"value": VALUE}]})}, "config: note: env[0]: value"),
        ({"a": json.dumps([json.dumps({"b": VALUE})])}, "config: a[0]: b"),
        ({"a": base64.b64encode(f"shop:{VALUE}".encode()).decode()}, "config: a"),
        ({"a": "{" + VALUE}, "config: a"),
        ({"a": "[" * 100_000 + VALUE}, "config: a"),
    ],
)  # fmt: skip
def test_a_value_is_found_with_its_path(document, place):
    assert find_in_document(document, FINDER, "config") == {"db.password": [place]}


def test_a_key_may_be_a_value_and_is_not_shown():
    assert find_in_document({VALUE: {"a": 1}}, FINDER, "config") == {"db.password": ["config"]}


def test_a_lone_surrogate_is_no_obstacle():
    assert find_in_document({"a": "\ud800\udcff", "b": VALUE}, FINDER, "config") == {"db.password": ["config: b"]}


def test_strings_can_be_left_out():
    assert find_in_document({"Env": [f"P={VALUE}", f"Q={VALUE}"]}, FINDER, "config", [f"P={VALUE}"]) == {
        "db.password": ["config: Env[1]"]
    }


def test_nothing_is_found_in_other_documents():
    assert find_in_document({"a": ["b", 1, None, True, "{}", "[1]"], "correct": "horse"}, FINDER, "config") == {}
