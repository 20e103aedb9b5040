"""Manifests and recipes are shown without values that may be secrets."""

from __future__ import annotations

import json

from warmstart.recipe.pods import hide_values

SECRET = "hunter2"


def hidden(document: object) -> object:
    shown = hide_values(document, "***")
    assert SECRET not in json.dumps(shown)
    return shown


def test_values_of_variables_and_headers() -> None:
    source = {"secretKeyRef": {"name": "db", "key": "password"}}
    container = {"env": [{"name": "A", "value": SECRET}, {"name": "B", "valueFrom": source}], "httpHeaders": [SECRET]}
    assert hidden({"spec": [container]}) == {
        "spec": [{"env": [{"name": "A", "value": "***"}, {"name": "B", "valueFrom": source}], "httpHeaders": ["***"]}]
    }


def test_objects_with_values_keep_their_keys() -> None:
    secret = {
        "kind": "Secret",
        "metadata": {"name": "db"},
        "data": {"password": SECRET},
        "stringData": {"user": SECRET},
    }
    config = {"kind": "ConfigMap", "data": {"url": SECRET}, "binaryData": {"a": SECRET}}
    recipe = {
        "build": {"objects": [secret, {"kind": "List", "items": [config]}], "secrets": {"db": {"password": SECRET}}}
    }

    shown = hidden(recipe)["build"]
    assert shown["objects"][0]["metadata"] == {"name": "db"}
    assert shown["objects"][0]["data"] == {"password": "***"}
    assert shown["objects"][1]["items"][0]["data"] == {"url": "***"}
    assert shown["secrets"] == {"db": {"password": "***"}}
    assert hidden({"kind": "Secret", "data": SECRET}) == {"kind": "Secret", "data": "***"}
    # Names of Secrets, as a service account has them, are none.
    assert hidden({"kind": "ServiceAccount", "secrets": [{"name": "token"}]})["secrets"] == [{"name": "token"}]
