"""Answers of an API server or a kubelet: JSON, of which every value that is used is read by its type.

A value of another form is an error that names the request and where in the answer it is. Null and absent are the same,
as for Kubernetes itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from warmstart.core.errors import ClusterError
from warmstart.core.untrusted_json import JsonError, parse_json

#: How deep objects and lists may be in each other where they are copied.
MOST_DEEP = 64
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Answer:
    """A value in an answer.

    Attributes:
        value: the value; None when there is none.
        source: which answer, such as `the API server's answer to GET /api/v1/nodes`.
        path: where in it, such as `status.conditions[0].type`.
    """

    value: Any
    source: str
    path: str = ""

    def at(self, *keys: str) -> Answer:
        """The value at a path of keys; None where there is no object on the way.

        Raises:
            ClusterError: there is something else than an object on the way.
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
        """The members of an object; none when there is no value."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fail("an object")
        return self.value

    def items(self) -> list[Answer]:
        """The items of a list; none when there is no value. An item is never null."""
        if self.value is None:
            return []
        if not isinstance(self.value, list) or None in self.value:
            self.fail("a list")
        return [Answer(item, self.source, f"{self.path}[{place}]") for place, item in enumerate(self.value)]

    def text(self, default: str | None = None) -> str:
        """A string."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            self.fail("a string")
        return self.value

    def name(self) -> str:
        """A string that is not empty."""
        if not self.text():
            self.fail("a name")
        return self.text()

    def texts(self) -> dict[str, str]:
        """The members of an object, which are strings."""
        return {key: self.at(key).text() for key in self.members()}

    def number(self, default: int | None = None) -> int:
        """A whole number."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail("a whole number")
        return self.value

    def flag(self) -> bool:
        """Whether something is so; not, when there is no value."""
        if self.value is not None and not isinstance(self.value, bool):
            self.fail("true or false")
        return bool(self.value)

    def check_depth(self) -> None:
        """See that the value can be copied and written: Python does both by calling itself.

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
    """A copy without the members that are null; to be called with what is not too deep."""
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
