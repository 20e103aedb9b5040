"""The ConfigMaps and Secrets that the generators of a kustomization make; nothing else of one is applied.

https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/configmapgenerator/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import LARGEST_BYTES
from warmstart.recipe.pods import Block
from warmstart.recipe.reading import read_input

_GENERATORS = (("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret"))


def generate(kustomization: Block, directory: Path | None) -> Iterator[Block]:
    """Yield the objects of a kustomization's generators, without the suffixes of their names.

    Of a Secret only the names of its keys are kept. Files outside of the directory are not read, as kustomize does not.
    """
    for key, kind in _GENERATORS:
        items = kustomization.get(key)
        for item in items if isinstance(items, list) else []:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                pairs = dict(_list_pairs(item, directory))
                data = pairs if kind == "ConfigMap" else dict.fromkeys(pairs, "")
                yield {"apiVersion": "v1", "kind": kind, "metadata": {"name": item["name"]}, "data": data}


def _list_pairs(item: Block, directory: Path | None) -> Iterator[tuple[str, str]]:
    for literal in _texts(item.get("literals")):
        name, equals, value = literal.partition("=")
        if equals:
            yield name.strip(), _unquoted(value)
    for path in [*_texts(item.get("envs")), *_texts([item.get("env")])]:
        for line in (_read(path, directory) or "").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and not name.startswith("#"):
                yield name.strip(), value
    for entry in _texts(item.get("files")):
        name, equals, path = entry.partition("=")
        text = _read(path if equals else entry, directory)
        if text is not None:
            yield name if equals else Path(entry).name, text


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _read(path: str, directory: Path | None) -> str | None:
    """Return the text of a file below the directory; None if there is none."""
    if directory is None:
        return None
    try:
        file = (directory / path).resolve()
        if not file.is_relative_to(directory.resolve()) or not file.is_file():
            return None
        data = read_input(file)
        return data.decode() if len(data) <= LARGEST_BYTES else None
    except (InputError, OSError, ValueError):
        return None
