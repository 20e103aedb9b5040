"""Change only necessary values in a manifest written by a person; comments, quotes and order stay.

A file is cut at its document markers, and only the document with the container is rewritten.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from warmstart.core.errors import ManifestError
from warmstart.core.yaml_document import plain_value, read_documents
from warmstart.kube.manifests import make_patch, put_settings
from warmstart.kube.match import BuildInfo, Setting, find_changes
from warmstart.kube.mismatch import list_warnings
from warmstart.recipe.pods import Block, PodContainer, choose_container, find_containers, manifest_error, read_manifest

# Markers count at the start of any line (YAML 1.2.2, c-forbidden).
_MARKER = re.compile(r"^---(?:[ \t]+#.*|[ \t]*)\n", re.MULTILINE)
_KEY_LINE = re.compile(r"^( *(?:- +)*)[^\s#'\"{\[][^\n#]*:[ \t]*(?:#.*)?$")
_ITEM_LINE = re.compile(r"^( *)- ")
_CONTEXT_LINES = 2
# Successors of new keys: at the end of its mapping, a key would follow the comments on the next item.
_BEFORE = {"automountServiceAccountToken": "containers", "nodeSelector": "containers"}


@dataclass(frozen=True)
class Patched:
    """A manifest, changed to match a build.

    Attributes:
        text: the file, changed.
        diff: the changes as a unified diff with reasons; empty for no change.
        warnings: settings that a restored container ignores.
        patch: the changes as a strategic merge patch; None for nothing.
    """

    text: str
    diff: str
    warnings: tuple[str, ...]
    patch: Block | None


def patch_manifest(data: bytes, name: str, container: str | None, build: BuildInfo) -> Patched:
    """Change a manifest so that its pod is restored from an image.

    Args:
        data: the file, YAML or JSON: one or more documents, Lists among them.
        name: name of the file in messages and in the diff.
        container: its name, as for `choose_container`; needed if there are several.
        build: the image.

    Raises:
        ManifestError: it is not YAML, has no such container, or the container cannot be changed alone.
    """
    documents = read_manifest(data, name)
    found = [one for each in documents for one in find_containers(each.value)]
    chosen = choose_container(found, container, name)
    for document in documents:
        if document.problems and any(one.block is chosen.block for one in find_containers(document.value)):
            raise manifest_error(name, document.problems)
    changes = find_changes(build, chosen.pod, chosen.block)
    texts = list(_apply(data.decode("utf-8-sig"), name, container, changes))
    _require_same_beside(texts[-1], name, [document.value for document in documents], found.index(chosen), changes)
    return Patched(
        text=texts[-1],
        diff="".join(_diff(texts, name, changes)),
        warnings=tuple(list_warnings(build, chosen.pod, chosen.block)),
        patch=make_patch(chosen, changes) if changes else None,
    )


def _apply(text: str, name: str, container: str | None, changes: list[Setting]) -> Iterator[str]:
    """Yield the text as rewritten without changes, then with one more change each time."""
    parts = _split(text)
    loaded = [_load(part, name) for part in parts]
    place = choose_container([one for value in loaded for one in find_containers(value)], container, name)
    index = next(i for i, value in enumerate(loaded) if any(one.block is place.block for one in find_containers(value)))
    write = _writer(parts[index])
    yield "".join([*parts[:index], write(loaded[index]), *parts[index + 1 :]])
    for change in changes:
        _put(place, change)
        yield "".join([*parts[:index], write(loaded[index]), *parts[index + 1 :]])


def _require_same_beside(text: str, name: str, before: list[Any], index: int, changes: list[Setting]) -> None:
    """Refuse to change a part that is used several times, by aliases or merge keys."""
    expected = [_plain(value) for value in before]
    target = [one for value in expected for one in find_containers(value)][index]
    put_settings(target.pod, target.block, changes)
    if _plain(expected) != _plain([document.value for document in read_documents(text, name)]):
        raise ManifestError(
            f"{name}: a value that must change has an anchor (&) and is used in several places",
            hint="write the value out in the restored container, without the anchor or alias (*)",
        )


def _plain(value: Any) -> Any:
    """Return a copy without aliases and without keys that have no value."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _split(text: str) -> list[str]:
    """Return documents and the markers between them, in turn."""
    parts, end = [], 0
    for marker in _MARKER.finditer(text):
        parts += [text[end : marker.start()], marker[0]]
        end = marker.end()
    return [*parts, text[end:]]


def _load(part: str, name: str) -> Any:
    if _MARKER.fullmatch(part):
        return None
    try:
        return _yaml().load(part)
    except Exception as error:
        # The package has no error of its own for a value that does not fit its tag: any error is possible.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ManifestError(f"{name} cannot be changed: {reason}") from error


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    return yaml


def _writer(part: str) -> Callable[[Any], str]:
    """Return a writer for the style of the text: JSON as JSON, and lists indented as they are."""
    lines = part.splitlines()
    with contextlib.suppress(ValueError):
        json.loads(part)
        # Text of one line stays one line; else its second line is the first that is indented.
        indent = lines[1][: -len(lines[1].lstrip())] if len(lines) > 1 else None
        return partial(_write_json, indent)
    yaml = _yaml()
    offset = 0
    for key, item in pairwise(lines):
        if (above := _KEY_LINE.match(key)) and (below := _ITEM_LINE.match(item)):
            offset = max(0, len(below[1]) - len(above[1]))
            break
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    return partial(_write_yaml, yaml)


def _write_yaml(yaml: YAML, value: Any) -> str:
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _write_json(indent: str | None, value: Any) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def _put(target: PodContainer, change: Setting) -> None:
    *path, key = change.keys
    place: Any = target.pod if change.of_pod else target.block
    for step in path:
        if not isinstance(place.get(step), dict):
            _insert(place, step, CommentedMap())
        place = place[step]
    if change.value is None:
        del place[key]
    else:
        _insert(place, key, _quoted(change.value))


def _quoted(value: Any) -> Any:
    """Quote the strings of a value that kubectl would otherwise read as another type."""
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and plain_value(value) != value else value


def _insert(place: Any, key: str, value: Any) -> None:
    """Set a key. A new one does not go to the end, because it would follow comments on the next value there."""
    if key in place:
        place[key] = value
    elif _BEFORE.get(key) in place:
        place.insert(list(place).index(_BEFORE[key]), key, value)
    elif "image" in place:
        place.insert(list(place).index("image") + 1, key, value)
    else:
        place[key] = value


def _diff(texts: list[str], name: str, changes: list[Setting]) -> Iterator[str]:
    if changes:
        yield f"--- {name}\n+++ {name}, restored\n"
    for (before, after), change in zip(pairwise(texts), changes, strict=True):
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), n=_CONTEXT_LINES)
        for line in list(lines)[2:]:
            hunk = line.startswith("@@")
            yield f"{line.rstrip()} {change.reason}\n" if hunk else line if line.endswith("\n") else f"{line}\n"
