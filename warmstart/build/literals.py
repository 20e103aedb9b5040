"""Parts of a recipe that its image may contain: variables with a literal value, and a command line without secrets.

A pod that leaves them out behaves as the build did. Values from Secrets, ConfigMaps and fields of the pod belong to the
pod, and are not part of the image.
"""

from __future__ import annotations

import json

from warmstart.recipe.model import Recipe
from warmstart.recipe.variables import list_references


def find_literals(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Return the container's variables with literal values, with the values of the build.

    A value that refers to a variable of another kind, or contains a secret of the build, is none.
    """
    document = json.loads(recipe.document or "{}").get("container", {})
    literal: dict[str, bool] = {}
    for entry in document.get("env") or []:
        references = list_references(str(entry.get("value", "")))
        # A reference to an unknown name stays as it is.
        is_literal = not entry.get("valueFrom") and all(
            literal.get(name, not _is_known(recipe, name)) for name in references
        )
        literal[entry["name"]] = is_literal
    return tuple(
        (name, value) for name, value in recipe.container.env if literal.get(name) and not _has_secret(recipe, value)
    )


def find_command_line(recipe: Recipe) -> tuple[str, ...]:
    """Return the recipe's command and arguments, words with the value of a secret as they are written: with references.

    A runtime that restores the image uses none of it, and a pod that starts it cold has a command line of its own.
    """
    container = recipe.container
    document = json.loads(recipe.document or "{}").get("container", {})
    written = [*document.get("command", ()), *document.get("args", ())]
    words = (*container.command, *container.args)
    return tuple(
        written[index] if _has_secret(recipe, word) and index < len(written) else word
        for index, word in enumerate(words)
    )


def _is_known(recipe: Recipe, name: str) -> bool:
    return any(name == known for known, _ in recipe.container.env)


def _has_secret(recipe: Recipe, value: str) -> bool:
    data = value.encode(errors="surrogateescape")
    return any(secret.value and secret.value in data for secret in recipe.secrets)
