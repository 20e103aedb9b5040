"""Answers of an API server or a kubelet: JSON, with a type check of every value that is used.

A value of another form is an error that names the request and the path in the answer. Null and absent are the same,
as for Kubernetes itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from warmstart.core.errors import ClusterError
from warmstart.core.untrusted_json import JsonError, parse_json

#: Maximum nesting of objects and lists that are copied.
MOST_DEEP = 64
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Answer:
    """A value in an answer.

    Attributes:
        value: the value; None if there is none.
        source: name of the answer, such as `the API server's answer to GET /api/v1/nodes`.
        path: path in the answer, such as `status.conditions[0].type`.
    """

    value: Any
    source: str
    path: str = ""

    def at(self, *keys: str) -> Answer:
        """Return the value at a path of keys; None if an object on the way is missing.

        Raises:
            ClusterError: a value on the way is not an object.
        """
        found = self
        for key in keys:
            place = key if _PLAIN_KEY.fullmatch(key) else f"[{key!r:.80}]"
            joined = f"{found.path}{'.' if found.path and place is key else ''}{place}"
            found = Answer(found.members().get(key), self.source, joined)
        return found

    def fail(self, expected: str) -> NoReturn:
        """Raise the error for a value of another form."""
        if self.value is None and self.path:
            raise ClusterError(f"{self.source} has no {self.path}")
        where = self.path or "it"
        raise ClusterError(f"{self.source} is of an unknown form: {where} is not {expected} but {self.value!r:.80}")

    def members(self) -> dict[str, Any]:
        """Return the members of an object; none if there is no value."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fail("an object")
        return self.value

    def items(self) -> list[Answer]:
        """Return the items of a list; none if there is no value. An item is never null."""
        if self.value is None:
            return []
        if not isinstance(self.value, list) or None in self.value:
            self.fail("a list")
        return [Answer(item, self.source, f"{self.path}[{place}]") for place, item in enumerate(self.value)]

    def text(self, default: str | None = None) -> str:
        """Return a string."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            self.fail("a string")
        return self.value

    def name(self) -> str:
        """Return a string that is not empty."""
        if not self.text():
            self.fail("a name")
        return self.text()

    def texts(self) -> dict[str, str]:
        """Return the members of an object of strings."""
        return {key: self.at(key).text() for key in self.members()}

    def number(self, default: int | None = None) -> int:
        """Return a whole number."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail("a whole number")
        return self.value

    def flag(self) -> bool:
        """Return a boolean; False if there is no value."""
        if self.value is not None and not isinstance(self.value, bool):
            self.fail("true or false")
        return bool(self.value)

    def check_depth(self) -> None:
        """Check that the value can be copied and written: Python does both recursively.

        Raises:
            ClusterError: it is too deep.
        """
        level = [self.value]
        for _ in range(MOST_DEEP):
            level = [child for value in level for child in _list_children(value)]
            if not level:
                return
        raise ClusterError(f"{self.source} is of an unknown form: it is more than {MOST_DEEP} levels deep")


def _list_children(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def drop_nulls(value: Any) -> Any:
    """Return a copy without null members. Check the depth first."""
    if isinstance(value, dict):
        return {key: drop_nulls(member) for key, member in value.items() if member is not None}
    return [drop_nulls(item) for item in value] if isinstance(value, list) else value


def parse_answer(data: bytes, source: str) -> Answer:
    """Read an answer.

    Raises:
        ClusterError: it is not JSON.
    """
    try:
        return Answer(parse_json(data), source)
    except JsonError as error:
        raise ClusterError(f"{source} is not JSON: {data[:80].decode(errors='replace')!r}") from error
