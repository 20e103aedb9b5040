"""Parse YAML into plain values, and keep the line of each.

Plain scalars have the same meaning as for kubectl, so that a container pasted from a Deployment reads the same: YAML
1.1's `yes` and `off` are booleans, `0o17` and `017` are integers, dates are strings, base 60 does not exist (goyaml.v2
of sigs.k8s.io/yaml, resolve.go). Every fault of a text is an InputError or a `Problem`, never an exception
of the parser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)
from ruamel.yaml.reader import ReaderError

from warmstart.core.errors import InputError, RecipeError, input_errors_as

LARGEST_BYTES = 1 << 20
_DEEPEST = 64
_MOST_DETAILS = 50
# Aliases can stand for more values than the text has bytes; a recipe has a few hundred.
_MOST_VALUES = 100_000

KeyPath = tuple[str | int, ...]

_WORDS: dict[str, bool | None] = {
    spelling: value
    for value, words in {True: "y yes true on", False: "n no false off", None: "null"}.items()
    for word in words.split()
    for spelling in (word, word.capitalize(), word.upper())
} | {"": None, "~": None}
_INTEGER = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_RESOLVED_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
_TYPES: dict[str | None, tuple[type, ...]] = dict(
    zip(_RESOLVED_TAGS, ((int,), (int, float), (bool,), (type(None),)), strict=True)
)
_TAGS = {None, "!", *_RESOLVED_TAGS, *(f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq"))}
_SURROGATES = frozenset(map(chr, range(0xD800, 0xE000)))
# What no program can be given as an argument, and what no UTF-8 can hold.
_UNUSABLE = _SURROGATES | {"\0"}


@dataclass(frozen=True)
class Place:
    """The place of a value in its source.

    `label` starts a message, such as `recipe.yaml:12` or `--set container.image=x`; `order` sorts messages.
    `written` is the text of a plain scalar that was not read as a string.
    """

    label: str
    order: int
    written: str | None = None


@dataclass(frozen=True)
class Problem:
    """A mistake: its place, the path of the value, and the expectation.

    `repeats` marks a key that is given twice: kubectl takes the last one, and so does the document's value.
    """

    place: Place
    path: KeyPath
    message: str
    repeats: bool = False

    def __str__(self) -> str:
        return ": ".join(part for part in (self.place.label, dotted(self.path), self.message) if part)


@dataclass
class Document:
    """A YAML document: its plain value, and the place of each value in it by path.

    `problems` are mistakes that do not prevent reading: duplicate keys, unknown tags.
    """

    value: Any
    places: dict[KeyPath, Place]
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: KeyPath) -> Place:
        """Return the place of a value; of a missing one, the place of its parent."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def summarize(name: str, problems: Sequence[Problem]) -> tuple[str, list[str]]:
    """Return the brief and the details of an error for all the problems of a text."""
    details = [str(problem) for problem in problems[:_MOST_DETAILS]]
    if len(problems) > _MOST_DETAILS:
        details.append(f"... and {len(problems) - _MOST_DETAILS} more")
    mistakes = "a mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return f"{name} has {mistakes}", details


def dotted(path: KeyPath) -> str:
    """Return the path as people write it: `container.env[0].value`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{shown(key)}" for key in path)
    return text.removeprefix(".")


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield a value and all values in it, each with its path; mappings and lists before what is in them."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from walk(item, (*path, key))


def shown(text: str, longest: int = 80) -> str:
    """Shorten and escape a text for one line of a message."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return cut if cut.isprintable() else repr(cut)


def plain_value(text: str) -> Any:
    """Return the value of a plain scalar: None, a boolean, a 64-bit integer, a finite float, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    digits = text.replace("_", "") if text[:1] in "+-.0123456789" else ""
    try:
        if _INTEGER.fullmatch(digits):
            integer = _integer(digits)
            return integer if integer.bit_length() <= 64 else text
        if _FLOAT.fullmatch(digits) and math.isfinite(number := float(digits)):
            # A larger integer would be written with all its digits, and then be read as text.
            is_small = number.is_integer() and int(number).bit_length() <= 64
            return int(number) if is_small else number
    except ValueError:  # more digits than Python makes an integer of
        pass
    return text


def _integer(digits: str) -> int:
    """The integer, where a leading zero means octal."""
    number = digits.lstrip("+-")
    octal = len(number) > 1 and number.isdigit() and number[0] == "0"
    return (-1 if digits[0] == "-" else 1) * int(number, 8 if octal else 0)


def read_document(data: bytes | str, name: str) -> Document:
    """The one document of a YAML text; `name` stands for the text in messages.

    Raises:
        RecipeError: the text is not YAML in UTF-8, is too large, or holds several documents.
    """
    with input_errors_as(RecipeError):
        documents = read_documents(data, name)
    if len(documents) > 1:
        second = documents[1].places[()].label
        raise RecipeError(
            f"{name} holds several documents",
            details=[f"{second}: the second document begins here; a recipe has one"],
            hint="Delete the line `---` and everything after it, or use one file for each recipe.",
        )
    return documents[0] if documents else Document(None, {(): Place(f"{name}:1", 1)})


def read_documents(data: bytes | str, name: str) -> list[Document]:
    """All documents of a YAML text.

    Raises:
        InputError: the text is not YAML in UTF-8, or is too large.
    """
    text = _decode(data, name)
    _check_version(text, name)
    try:
        roots = list(_Composer(YAML(typ="safe", pure=True).parse(text), name).roots())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.problem, error.context) if part)
        raise _not_yaml(name, mark.line + 1, mark.column + 1, message) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        message = f"found the character {text[error.position]!r}, which YAML does not allow"
        raise _not_yaml(name, line, column, message) from error
    except InputError:
        raise
    except Exception as error:
        # The parser asserts what a text may get wrong, and hands the number of a \U escape to chr() as it is.
        raise InputError(f"{name} is not valid YAML", details=[f"{name}: {shown(str(error))}"]) from error
    return [_Reader(root, name).document for root in roots]


def _decode(data: bytes | str, name: str) -> str:
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{name} is too large: the limit is {LARGEST_BYTES >> 20} MiB")
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} is not UTF-8 text",
            details=[f"{name}:{line}: found the byte 0x{data[error.start]:02x}"],
            hint="Save the file as UTF-8.",
        ) from error


def _check_version(text: str, name: str) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        directive = line.split()
        if line.startswith("%YAML") and directive[:2] not in (["%YAML", "1.1"], ["%YAML", "1.2"]):
            raise _not_yaml(name, number, 1, f"{shown(line)}: only YAML 1.1 and 1.2 are read")


def _not_yaml(name: str, line: int, column: int, message: str) -> InputError:
    return InputError(f"{name} is not valid YAML", details=[f"{name}:{line}:{column}: {message}"])


def _too_many(name: str, line: int, column: int) -> InputError:
    return _not_yaml(name, line, column, f"more than {_MOST_VALUES} values, including those of aliases")


@dataclass(frozen=True)
class _Node:
    """A YAML node. `content` is a scalar's value, a list of nodes, or a tuple of pairs of nodes.

    `written` is the text of a scalar that is not a string, and `problem` a mistake in the node itself.
    """

    line: int
    column: int
    content: Any
    written: str | None = None
    problem: str = ""


class _Composer:
    """Makes nodes of the parser's events."""

    def __init__(self, events: Iterator[Event], name: str) -> None:
        self._events = events
        self._name = name
        self._anchors: dict[str, _Node] = {}
        self._count = 0

    def roots(self) -> Iterator[_Node]:
        """The root node of each document."""
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                self._anchors = {}
                yield self._node(next(self._events), depth=0)

    def _node(self, event: Event, depth: int) -> _Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _too_many(self._name, line, column)
        if depth > _DEEPEST:
            raise _not_yaml(self._name, line, column, f"values are nested more than {_DEEPEST} deep")
        if isinstance(event, AliasEvent):
            # An anchor counts from the end of its node on, so nothing can hold itself.
            if event.anchor not in self._anchors:
                raise _not_yaml(self._name, line, column, f"the alias *{event.anchor} has no anchor before it")
            return self._anchors[event.anchor]
        assert isinstance(event, ScalarEvent | CollectionStartEvent)
        if isinstance(event, ScalarEvent):
            event.value = _joined(event.value)
            value = _scalar(event)
            if event.tag in _TYPES and not _fits(value, _TYPES[event.tag]):
                message = f"{shown(event.value) or 'nothing'} does not match its tag {event.tag}"
                raise _not_yaml(self._name, line, column, message)
            node = _Node(line, column, value, None if isinstance(value, str) else event.value, _defect(event))
        else:
            children = [self._node(child, depth + 1) for child in self._until_end()]
            pairs = isinstance(event, MappingStartEvent)
            content = tuple(zip(children[::2], children[1::2], strict=True)) if pairs else children
            node = _Node(line, column, content, None, _defect(event))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _until_end(self) -> Iterator[Event]:
        while not isinstance(event := next(self._events), CollectionEndEvent):
            yield event


def _scalar(event: ScalarEvent) -> Any:
    if event.tag in (None, *_RESOLVED_TAGS) and (event.tag or event.style is None):
        return plain_value(event.value)
    return event.value


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _joined(text: str) -> str:
    """Replace surrogate pairs, two escapes in JSON, with the characters that they encode."""
    if _SURROGATES.isdisjoint(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _defect(event: ScalarEvent | CollectionStartEvent) -> str:
    """Describe the mistake in a node itself; empty if there is none."""
    if event.tag not in _TAGS:
        return f"the tag {shown(str(event.tag))} is not supported: delete it"
    if isinstance(event, ScalarEvent) and not _UNUSABLE.isdisjoint(event.value):
        return "a string may contain neither a NUL nor half a surrogate pair"
    return ""


class _Reader:
    """Makes a document of a root node."""

    def __init__(self, root: _Node, name: str) -> None:
        self._name = name
        self._count = 0
        self.document = Document(None, {(): self._place(root, root.written)})
        self.document.value = self._value(root, ())

    def _place(self, node: _Node, written: str | None = None) -> Place:
        return Place(f"{self._name}:{node.line}", node.line, written)

    def _report(self, node: _Node, path: KeyPath, message: str, *, repeats: bool = False) -> None:
        self.document.problems.append(Problem(self._place(node), path, message, repeats))

    def _value(self, node: _Node, path: KeyPath) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _too_many(self._name, node.line, node.column)
        if node.problem:
            self._report(node, path, node.problem)
        if isinstance(node.content, tuple):
            return self._mapping(node.content, path)
        if isinstance(node.content, list):
            return [self._item(item, item, (*path, index)) for index, item in enumerate(node.content)]
        return node.content

    def _mapping(self, pairs: tuple[tuple[_Node, _Node], ...], path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if not isinstance(key.content, str):
                got = "a list or a mapping" if key.written is None else f"{key.written or 'nothing'}: quote it"
                self._report(key, path, f"expected a key that is a string, got {got}")
                continue
            inner = (*path, key.content)
            if key.problem:
                self._report(key, inner, key.problem)
            if key.content in mapping:
                first = self.document.places[inner].order
                self._report(key, inner, f"given twice, on line {first} and here: delete one", repeats=True)
            mapping[key.content] = self._item(key, value, inner)
        return mapping

    def _item(self, start: _Node, node: _Node, path: KeyPath) -> Any:
        """The value of a node that is written from `start` on: its key, or the node itself."""
        self.document.places[path] = self._place(start, node.written)
        return self._value(node, path)
