"""Change single values in the text of a YAML document; every other character stays as it is.

Places come from the parser's marks. A new value is written in the style around it: as flow in flow, with quoted keys
where the keys are quoted, and as a block with the indentation of the file. If a key is given twice, the last one
counts, as for kubectl.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from warmstart.core.errors import InputError
from warmstart.core.yaml_document import KeyPath, plain_value

# Text that every reader takes for the same string, before a colon and after one, in a block and in flow.
_PLAIN = re.compile(r"[A-Za-z0-9_./](?:[A-Za-z0-9_./@%+=:-]*[A-Za-z0-9_./@%+=-])?", re.ASCII)


@dataclass(frozen=True)
class _Node:
    """A node and its place in the text, anchor and tag included.

    `column` is that of the first key or of the first dash, `items` are the values of a list or the keys and values of a
    mapping in turn, and `key` is the text of a scalar.
    """

    kind: type
    start: int
    end: int
    column: int
    flow: bool = True
    items: tuple[_Node, ...] = ()
    key: str = ""

    @property
    def pairs(self) -> list[tuple[_Node, _Node]]:
        return list(zip(self.items[::2], self.items[1::2], strict=True)) if self.kind is dict else []

    def find(self, key: str | int) -> _Node | None:
        """Return the value of a key or the item of an index; None if there is none."""
        if self.kind is list and isinstance(key, int):
            return self.items[key] if key < len(self.items) else None
        return next((value for name, value in reversed(self.pairs) if name.kind is str and name.key == key), None)

    def walk(self) -> Iterator[_Node]:
        yield self
        for item in self.items:
            yield from item.walk()


def split_documents(text: str) -> list[str]:
    """Cut a text into its head and its documents. Each document is followed by what is before the next one.

    Raises:
        InputError: it is not YAML.
    """
    with _faults():
        events = YAML(typ="safe", pure=True).parse(text)
        starts = [next(events).start_mark.index for event in events if isinstance(event, DocumentStartEvent)]
    # A document that is indented begins with its first line.
    lines = [text.rfind("\n", 0, start) + 1 for start in starts]
    begins = [start if text[line:start].strip() else line for line, start in zip(lines, starts, strict=True)]
    return [text[begin:end] for begin, end in pairwise([0, *begins, len(text)])]


def set_value(text: str, path: KeyPath, value: Any, *, after: str = "", before: str = "") -> str:
    """Set the value at a path in the first document of a text.

    Args:
        text: the document.
        path: keys and indexes; mappings that are missing are made.
        value: the value.
        after: a new key goes behind this one, if it is there. By default it becomes the last one.
        before: a new key goes before this one, if it is there.

    Raises:
        InputError: a mapping on the path is an alias, or the text is not YAML.
    """
    root = _parse(text)
    parent, key, found, rest = _descend(root, path)
    for inner in reversed(rest):
        value = {inner: value}
    if found is not None:
        return _replace(text, root, parent, found, value)
    if parent.kind is not dict or not isinstance(key, str):
        raise InputError(f"there is no place for {key}")
    style = _Style.of(text, root, parent)
    if parent.flow:
        return _insert_in_flow(text, parent, f"{style.key(key)}: {style.flow(value)}", parent.find(after))
    return _insert_in_block(text, parent, style.block({key: value}, parent.column), after, before)


def append_item(text: str, path: KeyPath, value: Any, *, after: str = "", before: str = "") -> str:
    """Append an item to the list at a path, which is made if it is missing; as `set_value`."""
    root = _parse(text)
    *_, found, rest = _descend(root, path)
    if found is None or rest or found.kind is not list or not found.items:
        return set_value(text, path, [value], after=after, before=before)
    style = _Style.of(text, root, found)
    if found.flow:
        return _insert_in_flow(text, found, style.flow(value), None)
    return _insert_lines(text, _line_end(text, found.end), style.block([value], found.column))


def delete_key(text: str, path: KeyPath) -> str:
    """Delete the key at a path, and its value.

    Raises:
        InputError: there is none, a mapping on the path is an alias, or the text is not YAML.
    """
    parent, _, found, rest = _descend(_parse(text), path)
    if found is None or rest or parent.kind is not dict:
        raise InputError("there is no such key")
    pairs = parent.pairs
    place = next(place for place, pair in enumerate(pairs) if pair[1] is found)
    start, end = pairs[place][0].start, found.end
    if len(pairs) == 1:
        return f"{text[:start]}{'' if parent.flow else '{}'}{text[end:]}"
    if place == 0:
        return text[:start] + text[pairs[1][0].start :]
    if parent.flow:
        return text[: pairs[place - 1][1].end] + text[end:]
    return text[: text.rfind("\n", 0, start) + 1] + text[_line_end(text, end) :].removeprefix("\n")


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Raise InputError for any error of the parser; see `warmstart.core.yaml_document.read_documents`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError("it is not valid YAML") from error


def _parse(text: str) -> _Node:
    with _faults():
        events = YAML(typ="safe", pure=True).parse(text)
        for event in events:
            if isinstance(event, DocumentStartEvent):
                return _node(text, next(events), events)
    raise InputError("it is empty")


def _node(text: str, event: Event, events: Iterator[Event]) -> _Node:
    start, end, column = event.start_mark.index, event.end_mark.index, event.start_mark.column
    if isinstance(event, AliasEvent):
        return _Node(type(None), start, end, column)
    if isinstance(event, ScalarEvent):
        # A literal ends with its last line.
        end = start + len(text[start:end].rstrip("\n")) if event.style in ("|", ">") else end
        return _Node(str, start, end, column, key=event.value)
    assert isinstance(event, CollectionStartEvent)
    items: list[_Node] = []
    kind = dict if isinstance(event, MappingStartEvent) else list
    while not isinstance(inner := next(events), CollectionEndEvent):
        item = _node(text, inner, events)
        if item.start == item.end and kind is dict and len(items) % 2:
            # The parser puts an empty value before the next key.
            after = text.find(":", items[-1].end) + 1
            item = replace(item, start=after, end=after)
        items.append(item)
    if event.flow_style or not items:
        return _Node(kind, start, inner.end_mark.index, column, items=tuple(items))
    line = text.rfind("\n", 0, items[0].start) + 1
    first = items[0].start if kind is dict else max(text.rfind("-", line, items[0].start), start)
    return _Node(kind, start, items[-1].end, first - text.rfind("\n", 0, first) - 1, False, tuple(items))


def _descend(root: _Node, path: KeyPath) -> tuple[_Node, str | int, _Node | None, KeyPath]:
    """Go as far as there are collections that can have the next key.

    Returns:
        The last collection, the key in it, its value if there is any, and the rest of the path.
    """
    node = root
    for place, key in enumerate(path):
        found, rest = node.find(key), path[place + 1 :]
        if not rest or found is None or found.kind is str or (found.kind is list and isinstance(rest[0], str)):
            return node, key, found, rest
        if found.kind is type(None):
            raise InputError("a value that must change is an alias (*)")
        node = found
    raise InputError("the path is empty")


def _replace(text: str, root: _Node, parent: _Node, found: _Node, value: Any) -> str:
    style, old = _Style.of(text, root, parent), text[found.start : found.end]
    if not old:
        if parent.flow or not isinstance(value, dict | list) or not value:
            return f"{text[: found.end]} {style.flow(value)}{text[found.end :]}"
        column = parent.column + (style.step if isinstance(value, dict) else style.offset)
        return "\n".join([text[: found.end], *style.block(value, column)]) + text[found.end :]
    if not found.flow and isinstance(value, dict | list) and value:
        new = "\n".join(style.block(value, found.column)).lstrip()
    elif old.startswith("'") and isinstance(value, str) and value.isprintable():
        new = "'{}'".format(value.replace("'", "''"))
    elif old.startswith('"') and isinstance(value, str):
        new = _quoted(value)
    else:
        new = style.text(value) if not parent.flow else style.flow(value)
    return text[: found.start] + new + text[found.end :]


def _insert_in_flow(text: str, parent: _Node, new: str, after: _Node | None) -> str:
    if not parent.items:
        return f"{text[: parent.end - 1]}{new}{text[parent.end - 1 :]}"
    place = (after or parent.items[-1]).end
    # One key a line stays one key a line.
    first = parent.items[0].start
    _, spread, indent = text[parent.start : first].rpartition("\n")
    between = f",\n{indent}" if spread else ", "
    return text[:place] + between + new + text[place:]


def _insert_in_block(text: str, parent: _Node, lines: list[str], after: str, before: str) -> str:
    names = {key.key: (key, value) for key, value in parent.pairs}
    if before in names:
        line = text.rfind("\n", 0, names[before][0].start) + 1
        if not text[line : names[before][0].start].strip():
            # Comments above a key belong to it.
            while line and text[text.rfind("\n", 0, line - 1) + 1 : line].lstrip().startswith("#"):
                line = text.rfind("\n", 0, line - 1) + 1
            return text[:line] + "".join(f"{new}\n" for new in lines) + text[line:]
    end = names[after][1].end if after in names else parent.end
    return _insert_lines(text, _line_end(text, end), lines)


def _insert_lines(text: str, place: int, lines: list[str]) -> str:
    return text[:place] + "".join(f"\n{line}" for line in lines) + (text[place:] or "\n")


def _line_end(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end


@dataclass(frozen=True)
class _Style:
    """How values are written: the steps of indentation, and whether all strings and keys are quoted."""

    step: int
    offset: int
    quoted: bool

    @classmethod
    def of(cls, text: str, root: _Node, place: _Node) -> _Style:
        """Return the style of a file, at one of its nodes."""
        nested = [
            (value.kind, value.column - node.column)
            for node in root.walk()
            if not node.flow
            for _, value in node.pairs
            if not value.flow
        ]
        steps = {kind: next((step for of, step in nested if of is kind), None) for kind in (dict, list)}
        first = place.items[0] if place.items else None
        quoted = place.flow and first is not None and text[first.start] == '"'
        return cls(steps[dict] or 2, steps[list] or 0, quoted)

    def key(self, key: str) -> str:
        return _quoted(key) if self.quoted or not _is_plain(key) else key

    def flow(self, value: Any) -> str:
        """Return a value on one line, for flow."""
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.key(key)}: {self.flow(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.flow, value))}]"
        # Older parsers refuse a colon in a plain string in flow.
        return _quoted(value) if isinstance(value, str) and (self.quoted or ":" in value) else self.text(value)

    def text(self, value: Any) -> str:
        """Return a value on one line, for a block."""
        if isinstance(value, str):
            return value if _is_plain(value) else _quoted(value)
        return self.flow(value) if isinstance(value, Mapping | list | tuple) else json.dumps(value)

    def block(self, value: Any, column: int) -> list[str]:
        """Return the lines of a mapping or list that begins at a column."""
        lines = []
        if isinstance(value, Mapping):
            for key, item in value.items():
                nested = isinstance(item, Mapping | list | tuple) and item
                inner = column + (self.step if isinstance(item, Mapping) else self.offset)
                lines.append(f"{' ' * column}{self.key(key)}:{'' if nested else f' {self.text(item)}'}")
                lines += self.block(item, inner) if nested else ()
            return lines
        for item in value:
            nested = isinstance(item, Mapping) and item
            first, *more = self.block(item, column + 2) if nested else [self.text(item)]
            lines += [f"{' ' * column}- {first.lstrip()}", *more]
        return lines


def _is_plain(text: str) -> bool:
    return bool(_PLAIN.fullmatch(text)) and isinstance(plain_value(text), str)


def _quoted(text: str) -> str:
    """Return a double-quoted scalar. JSON's escapes of characters above U+FFFF would be two characters in YAML."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else _escape(ord(one)) for one in escaped)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
