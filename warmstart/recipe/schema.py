"""The recipe's JSON Schema, and readable messages for its findings.

The schema carries the messages: the `title` of each value is a phrase that fits after "expected", a key that refers to
`$defs/refused` is known but not accepted, with its `description` as the reason, and `errorMessage` (a keyword that YAML
editors know) replaces the message of the subschema it stands in.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from warmstart.core.yaml_document import Document, KeyPath, Place, Problem, shown

Schema = Mapping[str, Any]

IGNORED = "#/$defs/ignored"
REFUSED = "#/$defs/refused"


@cache
def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of a recipe, as it is in the package."""
    return files(__package__).joinpath("recipe.schema.json").read_text(encoding="utf-8")


@cache
def recipe_schema() -> Schema:
    """The JSON Schema of a recipe, parsed."""
    schema: Schema = json.loads(schema_text())
    return schema


def resolved(schema: Schema) -> Schema:
    """Return the schema with its reference resolved; its own keywords come before those of the reference."""
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/$defs/")
    return {**resolved(recipe_schema()["$defs"][name]), **schema}


def schema_at(path: KeyPath) -> Schema | None:
    """The schema of the value at this path of a recipe, resolved; None where nothing is known of it."""
    found: Schema | None = recipe_schema()
    for key in path:
        if found is None:
            return None
        inner = found.get("items") if isinstance(key, int) else _schema_of_key(found, key)
        found = resolved(inner) if isinstance(inner, dict) else None
    return found


def _schema_of_key(schema: Schema, key: str) -> Any:
    if key in schema.get("properties", {}):
        return schema["properties"][key]
    for pattern, inner in schema.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return inner
    return schema.get("additionalProperties")


def validate(document: Document) -> tuple[list[Problem], Any]:
    """Return all mistakes that the schema finds in a document, and the document's value without them.

    The value is often incomplete then, but has the right types, so that further checks need not look at types. A
    faulty item of a list becomes an empty mapping, and the others keep their indices.
    """
    problems: list[Problem] = []
    faulty: set[KeyPath] = set()
    for error in _validator().iter_errors(document.value):
        path: KeyPath = tuple(error.absolute_path)
        place = document.place(path)
        for at, message in _findings(error, path, place):
            problems.append(Problem(document.place(at), at, message))
            if at != path or error.validator == "type" or "properties" not in (schema_at(path) or {}):
                faulty.add(at)
    return problems, _without(document.value, faulty, ())


def _without(value: Any, faulty: set[KeyPath], path: KeyPath) -> Any:
    if path in faulty:
        return {}
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if (*path, key) not in faulty}
        return {key: _without(item, faulty, (*path, key)) for key, item in kept.items()}
    if isinstance(value, list):
        return [_without(item, faulty, (*path, index)) for index, item in enumerate(value)]
    return value


def _pattern(validator: Any, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:
    """The keyword `pattern` with ECMA 262's `$`: only the very end, where Python's allows a newline after it."""
    del validator, schema
    if isinstance(instance, str):
        anchored = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
        if not re.search(anchored, instance):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _validator() -> Draft202012Validator:
    extended: type[Draft202012Validator] = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return extended(recipe_schema())


def _findings(error: ValidationError, path: KeyPath, place: Place) -> Iterator[tuple[KeyPath, str]]:
    """Translate an error of the validator: yield paths and messages."""
    schema = schema_at(path) or {}
    value: Any = error.instance
    keyword: Any = error.validator_value
    if isinstance(error.schema, dict) and "errorMessage" in error.schema:
        yield path, error.schema["errorMessage"]
    elif error.validator == "additionalProperties":
        for key in value:
            if _schema_of_key(schema, key) is False:
                yield (*path, key), _unknown(key, schema["properties"])
    elif error.validator == "required":
        for key in keyword:
            if key not in value:
                yield (*path, key), f"missing: expected {_title((*path, key))}"
    elif error.validator == "not":
        reason: str = schema["description"]
        yield path, f"not accepted: {reason[0].lower()}{reason[1:]}"
    else:
        yield path, f"expected {_title(path)}, got {got(value, place)}{_quote_it(schema, value, place)}"


def is_text(schema: Schema) -> bool:
    """Tell whether a value is a string, or may be absent; also if nothing is known of it."""
    kinds = schema.get("type", "string")
    return kinds in ("string", ["string", "null"])


def _title(path: KeyPath) -> str:
    return str((schema_at(path) or {})["title"])


def _unknown(key: str, properties: Mapping[str, Schema]) -> str:
    nearest = difflib.get_close_matches(key, properties, n=1)
    if nearest:
        return f"unknown key: did you mean {nearest[0]}?"
    known = [name for name, schema in properties.items() if schema.get("$ref") not in (IGNORED, REFUSED)]
    return f"unknown key: expected one of {', '.join(known)}"


def _quote_it(schema: Schema, value: Any, place: Place) -> str:
    """Return the fix for a number or a boolean that was meant as a string."""
    meant = "type" in schema and is_text(schema) and value is not None and place.written
    return f"; quote it: {json.dumps(meant)}" if meant else ""


def got(value: Any, place: Place) -> str:
    """The value as a message shows it: as it was written, if it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping with {shown(', '.join(value))}" if value else "an empty mapping"
    if isinstance(value, list):
        return shown(json.dumps(value, ensure_ascii=False)) if value else "an empty list"
    if isinstance(value, str):
        return repr(shown(value)) if value.isprintable() else shown(value)
    return shown(place.written or json.dumps(value))
