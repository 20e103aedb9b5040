"""Values of Secrets from files, as the option `--secret NAME.KEY=FILE` names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.core.errors import RecipeError, input_errors_as
from warmstart.core.yaml_document import LARGEST_BYTES, shown, walk
from warmstart.recipe.reading import read_input
from warmstart.recipe.schema import recipe_schema

_EXAMPLE = "write NAME.KEY=FILE, such as shop-db.password=password.txt"


def read_secret_files(options: Sequence[str], names: Iterable[str]) -> dict[tuple[str, str], bytes]:
    """Read the files of options of the form NAME.KEY=FILE, byte for byte.

    Args:
        options: as given; a name and a key may have dots.
        names: of the Secrets of the recipe, which tell where a name ends. By default, it ends at the first dot.

    Returns:
        the values by name and key.

    Raises:
        RecipeError: an option is malformed, or its file cannot be read.
    """
    found: dict[tuple[str, str], bytes] = {}
    known = sorted(names, key=len, reverse=True)
    for option in options:
        target, equals, file = option.partition("=")
        name = next((one for one in known if target.startswith(f"{one}.")), target.partition(".")[0])
        key = target[len(name) + 1 :]
        if not (equals and file and _fits("objectName", name) and _fits("dataKey", key)):
            raise RecipeError(f"--secret {shown(target)}{equals} is not understood", hint=_EXAMPLE)
        with input_errors_as(RecipeError):
            found[name, key] = read_input(Path(file))
        if len(found[name, key]) > LARGEST_BYTES:
            raise RecipeError(f"{file} is too large: the limit is {LARGEST_BYTES >> 20} MiB")
    return found


def find_secret_names(document: Mapping[str, Any]) -> set[str]:
    """Return the names of all Secrets that a checked recipe refers to."""
    found = set(document.get("build", {}).get("secrets", {}))
    for path, item in walk(document):
        if path and path[-1] in ("secretKeyRef", "secretRef", "secret") and isinstance(item, dict):
            name = item.get("secretName", item.get("name"))
            if isinstance(name, str):
                found.add(name)
    return found


def _fits(definition: str, text: str) -> bool:
    schema = recipe_schema()["$defs"][definition]
    return len(text) <= schema["maxLength"] and re.fullmatch(schema["pattern"], text) is not None
