"""Answers of a registry, and the words around them, without the libraries that a connection needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

#: Transient failures are retried this many times.
RETRIES = 4


@dataclass(frozen=True)
class Answer:
    """A registry's response; `body` is cut at the limit of the request."""

    status: int
    reason: str
    url: str
    headers: Mapping[str, str]
    body: bytes


def add_query(url: str, name: str, value: str) -> str:
    """Append a query parameter to a URL, keeping the registry's own."""
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"
