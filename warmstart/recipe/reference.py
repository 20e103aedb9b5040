"""Makes docs/recipe.md, the reference of the recipe, from the schema: `python -m warmstart.recipe.reference FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from warmstart.recipe.schema import IGNORED, REFUSED, Schema, recipe_schema, resolved

EXAMPLE = """\
apiVersion: warmstart/v1alpha1
name: java-app
container:
  image: localhost/java-app:1.0
  args: ["--server.port=8080"]
  env:
    - {name: SPRING_PROFILES_ACTIVE, value: prod}
  ports:
    - {name: http, containerPort: 8080}
  resources:
    limits: {memory: 512Mi, cpu: "1"}
  readinessProbe:
    httpGet: {path: /actuator/health/readiness, port: http}
    periodSeconds: 1
    failureThreshold: 120
warmup:
  - httpGet: {path: "/greeting?name=warm", port: http}
    repeat: 300
prepare: java
image:
  name: registry.example.com/team/java-app:1.0-warm
"""

_LIKE_THE_CONTAINER = ("initContainers[]", "build.services[].container", "build.services[].volumes[]")

_INTRODUCTION = """\
# The recipe

<!-- Made from the schema by `python -m warmstart.recipe.reference docs/recipe.md`. Do not edit. -->

{description}

```yaml
{example}```

The file is YAML in UTF-8, with one document. Unquoted words mean what they mean to `kubectl`: `yes`, `off` and `8080`
are not strings, and where a string is wanted they need quotes. All mistakes of a recipe are reported at once, each
with its line. `warmstart schema` prints the JSON Schema, from which an editor can complete and check a recipe.

Values can be given on the command line, before the recipe is checked:

- `--set container.env[0].value=test` puts a value at a path. `[]`, or the index after the last, appends. A value is
  YAML where anything but a string is wanted: `--set 'container.args=[--debug, --port=80]'`. Below `image.labels` the
  rest of the path is one key: `--set image.labels.org.opencontainers.image.version=1.0`.
- `--tag 1.1-warm` replaces the tag of `image.name`; with a `/` or a `:` in it, as in `--tag java-app:warm`, the whole
  name.

How to bring a Deployment with its configuration, secrets, volumes and databases into a recipe: [Make a recipe from a
Deployment](how-to/deployment.md).

`warmstart build` takes [several recipes](how-to/ci.md#several-recipes) at once, or a directory of them. A recipe that
has not changed is [not built again](how-to/ci.md#if-nothing-has-changed).
"""


def reference_text() -> str:
    """The reference in Markdown: a section for each mapping that a recipe is made of."""
    root = recipe_schema()
    sections = [
        _INTRODUCTION.format(description=root["description"], example=EXAMPLE),
        _section("Top level", [], [root]),
    ]
    shared: dict[int, list[tuple[str, Schema]]] = {}
    for path, schema in _mappings(root, ""):
        shared.setdefault(id(schema["properties"]), []).append((path, schema))
    for places in shared.values():
        paths = [path for path, _ in places]
        heading = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths))
        sections.append(_section(heading, paths, [schema for _, schema in places]))
    return "\n".join(sections)


def _mappings(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """The mappings with known keys below a schema, with their paths, in the order of the schema.

    Containers other than the one to checkpoint have the same keys, and are not taken apart again.
    """
    for key, inner in schema["properties"].items():
        name, value = f"{path}.{key}".removeprefix("."), resolved(inner)
        if "items" in value:
            name, value = f"{name}[]", resolved(value["items"])
        if "properties" in value:
            yield name, value
            if name not in _LIKE_THE_CONTAINER:
                yield from _mappings(value, name)


def _section(heading: str, paths: list[str], schemas: list[Schema]) -> str:
    """A section for schemas that have the same keys."""
    parts = [f"## {heading}", ", ".join(f"`{path}`" for path in paths)]
    descriptions = {schema.get("description", "") for schema in schemas}
    if paths and len(descriptions) == 1:
        parts += descriptions
    return "\n\n".join(part for part in (*parts, *_keys(schemas[0])) if part) + "\n"


def _keys(schema: Schema) -> Iterator[str]:
    """A table of the keys that mean something, and lists of those that do not."""
    patterns = {_pattern(pattern): inner for pattern, inner in schema.get("patternProperties", {}).items()}
    keys = schema["properties"] | patterns
    plain = {key: resolved(inner) for key, inner in keys.items() if inner.get("$ref") not in (IGNORED, REFUSED)}
    if plain:
        rows = ["| Key | Value | Default | Meaning |", "| --- | --- | --- | --- |"]
        required = schema.get("required", [])
        yield "\n".join(rows + [_row(key, value, key in required) for key, value in plain.items()])
    for reference, heading in ((IGNORED, "Accepted and ignored:"), (REFUSED, "Not accepted:")):
        lines = [f"- `{key}`: {inner['description']}" for key, inner in keys.items() if inner.get("$ref") == reference]
        if lines:
            yield "\n".join([heading, "", *lines])


def _pattern(pattern: str) -> str:
    """Return the keys that match a regular expression: a choice of words, or without special characters except `^`."""
    if pattern.startswith("^("):
        return "`, `".join(pattern[2:-2].split("|"))
    return f"{pattern[1:]}…" if pattern.startswith("^") else f"…{pattern}…"


def _row(key: str, schema: Schema, required: bool) -> str:
    default = "required" if required else f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
    return f"| `{key}` | {schema['title']} | {default} | {schema.get('description', '')} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference_text(), encoding="utf-8")
