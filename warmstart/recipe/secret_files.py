"""Values of secrets from files: for the build, as `--secret NAME.KEY=FILE` names them, and those that must not leak."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError, RecipeError, input_errors_as
from warmstart.core.yaml_document import LARGEST_BYTES, shown, walk
from warmstart.recipe.model import Secret
from warmstart.recipe.reading import read_input
from warmstart.recipe.schema import recipe_schema

_VARIABLE = re.compile(rb"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]{0,127})=(.*)")
_MOST_VALUES = 1000
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


def read_values(file: Path) -> tuple[Secret, ...]:
    """Read a list of values that must not be in an image: one a line, also as NAME=VALUE, as in a file of variables.

    Returns:
        The values, each with its name, or else the file's and its line.

    Raises:
        InputError: the file cannot be read, or is too large.
    """
    data = read_input(file)
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{file} is too large: the limit is {LARGEST_BYTES >> 20} MiB")
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            match = _VARIABLE.fullmatch(text)
            name, value = (match[1].decode(), match[2]) if match else (f"{file.name}:{number}", text)
            found.append(Secret(name, _unquote(value), given=True))
    if len(found) > _MOST_VALUES:
        raise InputError(f"{file} has {len(found)} values: the limit is {_MOST_VALUES}")
    return tuple(found)


def _unquote(value: bytes) -> bytes:
    is_quoted = len(value) >= 2 and value[:1] == value[-1:] and value[:1] in (b"'", b'"')
    return value[1:-1] if is_quoted else value


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
