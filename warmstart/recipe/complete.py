"""The recipe as an image carries it: complete in itself, and without the values of secrets."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

from warmstart.core.privileges import name_capability
from warmstart.core.yaml_document import KeyPath, dotted
from warmstart.recipe.model import Recipe, Secret
from warmstart.recipe.sources import Sources

#: What stands in the recipe of an image in place of a value with a secret in it.
BLANKED = "(blanked)"

# Keys that hold values of the user's own, as opposed to names and paths that the recipe needs to be understood.
_VALUES = frozenset({"value", "args", "command", "data", "binaryData", "labels", "fields"})
_STRUCTURE = frozenset({"name", "image", "apiVersion", "kind", "metadata"})
# A shorter value counts only as a whole: it may be part of any other text.
_SHORTEST_PART = 8


def complete_document(document: Mapping[str, Any], recipe: Recipe, sources: Sources) -> tuple[str, list[str]]:
    """Return the recipe as JSON, and the warnings about values that are blanked in it.

    Args:
        document: prepared, and checked by the schema.
        recipe: that was made of it.
        sources: that were used to make it.
    """
    whole = copy.deepcopy(dict(document))
    whole["restore"] = [str(restorer) for restorer in recipe.restore]
    if recipe.services:
        whole["tcp"] = "close" if recipe.close_tcp else "refuse"
    _put_build(whole, sources)
    # What must not be in the image need not be known to those who run it.
    if search := {key: value for key, value in whole.pop("secrets", {}).items() if key in ("found", "allow")}:
        whole["secrets"] = search
    _normalize_capabilities(whole)
    found: list[str] = []
    blanked = _blank(whole, [secret for secret in sources.given() if secret.is_hidden], (), found)
    return json.dumps(blanked), found


def _put_build(whole: dict[str, Any], sources: Sources) -> None:
    """Put the objects that were used into `build`, and the names of the keys of Secrets."""
    build = {key: value for key, value in whole.get("build", {}).items() if key not in ("objects", "secrets")}
    if objects := list(sources.config_maps()):
        build["objects"] = objects
    if stubs := sources.secret_stubs():
        build["secrets"] = stubs
    if build:
        whole["build"] = build
    else:
        whole.pop("build", None)


def _normalize_capabilities(value: Any) -> None:
    """Write capabilities as Kubernetes does."""
    if isinstance(value, list):
        for item in value:
            _normalize_capabilities(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "capabilities" and isinstance(item, dict):
            for change, names in item.items():
                item[change] = list(dict.fromkeys(map(name_capability, names)))
        elif key not in _VALUES:
            _normalize_capabilities(item)


def _blank(value: Any, secrets: list[Secret], path: KeyPath, found: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _blank(item, secrets, (*path, key), found) for key, item in value.items()}
    if isinstance(value, list):
        return [_blank(item, secrets, (*path, index), found) for index, item in enumerate(value)]
    if not isinstance(value, str) or not _is_value(path):
        return value
    is_binary = "binaryData" in path
    data = base64.b64decode(value) if is_binary else value.encode()
    held = next((one for one in secrets if holds(data, one.value)), None)
    if held is None:
        return value
    found.append(f"{dotted(path)} has the value of the secret {held.name}: it is left out of the recipe in the image")
    return base64.b64encode(BLANKED.encode()).decode() if is_binary else BLANKED


def _is_value(path: KeyPath) -> bool:
    if path[-2:-1] == ("httpGet",):
        return path[-1] == "path"
    return any(key in _VALUES for key in path) and path[-1] not in _STRUCTURE


def holds(data: bytes, secret: bytes) -> bool:
    """Tell whether a text has the value of a secret; a short value counts only if it is all of the text."""
    return data == secret or (len(secret) >= _SHORTEST_PART and secret in data)
