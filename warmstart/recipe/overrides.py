"""Values given on the command line in place of those in the recipe's file: `--set` and `--tag`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from warmstart.core.errors import RecipeError
from warmstart.core.yaml_document import Document, KeyPath, Place, Problem, read_document, shown
from warmstart.recipe.checks import SECRETS, with_tag
from warmstart.recipe.schema import Schema, got, is_text, schema_at

_AFTER_THE_FILE = 1 << 30
_STEP = re.compile(r"\.?(?P<key>[^.\[\]=]+)|\[(?P<index>[0-9]{0,6})\]")
_EXAMPLE = "expected PATH=VALUE, such as container.image=localhost/java-app:1.0 or container.args[0]=--debug"


Steps = tuple[str | int | None, ...]


class _MisfitError(Exception):
    """The value cannot be put where its path says."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Put values of the form `container.env[0].value=prod` into a document.

    An index that is the length of its list, or `[]`, appends. Below `image.labels` the rest of the path is one key,
    dots included. A value is YAML, except where the schema expects a string: there it is taken literally. Mistakes in
    an override become problems of the document.
    """
    for number, override in enumerate(overrides):
        path_text, equals, value_text = override.partition("=")
        steps = _parse_path(path_text)
        named = path_text if steps[:2] == SECRETS else override
        place = Place(f"--set {shown(named)}", _AFTER_THE_FILE + number)
        if equals and steps:
            _put(document, steps, value_text, place)
        else:
            document.problems.append(Problem(place, (), _EXAMPLE))


def apply_tag(document: Document, tag: str) -> None:
    """Put a tag into a document's `image.name`, or a whole name if the tag has a `/` or a `:`."""
    place = Place(f"--tag {shown(tag)}", 2 * _AFTER_THE_FILE)
    image = document.value.get("image")
    name = image.get("name") if isinstance(image, dict) else None
    if "/" in tag or ":" in tag:
        _put(document, ("image", "name"), tag, place)
    elif isinstance(name, str):
        repository = with_tag(name.partition("@")[0]).rpartition(":")[0]
        _put(document, ("image", "name"), f"{repository}:{tag}", place)


def _parse_path(text: str) -> Steps:
    """The keys and indices of a path, None for `[]`; empty if it is not a path."""
    steps: Steps = ()
    position = 0
    while position < len(text):
        schema = _schema_at(steps).get("additionalProperties")
        if isinstance(schema, dict):
            rest = text[position:].removeprefix(".")
            return (*steps, *(rest.split(".", 1) if "additionalProperties" in schema else [rest]))
        match = _STEP.match(text, position)
        if match is None or (match["key"] and match[0].startswith(".") == (position == 0)):
            return ()
        steps = (*steps, match["key"] or (int(match["index"]) if match["index"] else None))
        position = match.end()
    return steps


def _schema_at(steps: Steps) -> Schema:
    return schema_at(tuple(0 if step is None else step for step in steps)) or {}


def _put(document: Document, steps: Steps, text: str, place: Place) -> None:
    given = _read_value(text, _schema_at(steps), place)

    def put(holder: Any, steps: Steps, path: KeyPath) -> Any:
        """The holder with the value put in; mappings and lists that are missing on the way are made."""
        if not steps:
            _settle(document, given, path)
            return given.value
        if holder is None:
            document.places[path] = place
        step, *rest = steps
        if isinstance(step, str):
            mapping = _expect(dict, holder, path, document)
            return {**mapping, step: put(mapping.get(step), tuple(rest), (*path, step))}
        items = _expect(list, holder, path, document)
        index = len(items) if step is None else step
        if index > len(items):
            raise _MisfitError(path, f"expected an index of at most {len(items)}, the end of the list, got {index}")
        item = items[index] if index < len(items) else None
        return [*items[:index], put(item, tuple(rest), (*path, index)), *items[index + 1 :]]

    try:
        document.value = put(document.value, steps, ())
    except _MisfitError as error:
        document.problems.append(Problem(place, error.path, error.message))


def _expect(kind: type[Any], holder: Any, path: KeyPath, document: Document) -> Any:
    if holder is not None and not isinstance(holder, kind):
        wanted = "a mapping" if kind is dict else "a list"
        raise _MisfitError(path, f"expected {wanted} to put the value into, got {got(holder, document.place(path))}")
    return holder or kind()


def _settle(document: Document, given: Document, path: KeyPath) -> None:
    """Record the place of a given value, and forget the places of values that it replaces."""
    for old in [known for known in document.places if known[: len(path)] == path]:
        del document.places[old]
    place = document.places[path] = given.places[()]
    document.problems += [Problem(place, (*path, *problem.path), problem.message) for problem in given.problems]


def _read_value(text: str, schema: Schema, place: Place) -> Document:
    """The value that is meant by a text: the text itself where a string is wanted or nothing is known, else YAML."""
    if not is_text(schema) or "anyOf" in schema:
        try:
            read = read_document(text, place.label)
        except RecipeError:
            pass  # no YAML, and so no value of the type that is wanted: the schema will say which
        else:
            written = read.places[()].written
            return Document(read.value, {(): Place(place.label, place.order, written)}, read.problems)
    return Document(text, {(): place})
