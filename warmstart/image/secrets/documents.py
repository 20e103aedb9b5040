"""Find secrets in JSON documents, such as a manifest, and say where."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from warmstart.image.layout import read_document, read_image
from warmstart.image.secrets.finder import Finder
from warmstart.image.secrets.search import Text


def read_documents(layout: Path) -> dict[str, Any]:
    """Read the documents of an image that name its parts, by their names; the layers are not among them.

    Raises:
        ImageError: the image is broken.
    """
    manifest = read_image(layout).manifest
    return {
        "manifest": json.loads(read_document(layout, manifest.descriptor)),
        "config": json.loads(read_document(layout, manifest.config)),
    }


def list_strings(layout: Path) -> set[str]:
    """Return all strings in the documents of an image, such as those of a base image, which are not searched again."""
    return {text for _, text in walk_strings(read_documents(layout))}


def list_texts(documents: Mapping[str, Any], left_out: Collection[str] = ()) -> list[Text]:
    """Return the texts of documents to search, without those left out."""
    return [
        Text(name, path, text)
        for name, document in documents.items()
        for path, text in walk_strings(document, name)
        if text not in left_out
    ]


def find_in_document(document: Any, finder: Finder, where: str, left_out: Collection[str] = ()) -> dict[str, list[str]]:
    """Find the secrets in the strings of a JSON document, and in documents that such a string holds.

    Args:
        document: a parsed document.
        finder: of the secrets.
        where: name of the document.
        left_out: strings not to search.

    Returns:
        For each secret that was found, the paths of the strings, beginning with `where`, without any value.
    """
    found: dict[str, list[str]] = {}
    for path, text in walk_strings(document, where):
        if text not in left_out:
            for name in finder.find(text.encode(errors="surrogatepass")):
                # A key may hold a value too.
                shown = where if finder.find(path.encode(errors="surrogatepass")) else path
                found.setdefault(name, []).append(shown)
    return found


def walk_strings(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings of a JSON document with their paths, keys too; and those of documents within strings."""
    if isinstance(document, dict):
        for key, value in document.items():
            inner = f"{path}: {key}"
            yield inner, key
            yield from walk_strings(value, inner)
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from walk_strings(value, f"{path}[{index}]")
    elif isinstance(document, str):
        nested = _parse(document)
        if nested is None:
            yield path, document
        else:
            yield from walk_strings(nested, path)


def _parse(text: str) -> Any:
    """Return the object or list that a string holds as JSON; None if it is another string."""
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
