"""The record of the secrets that an image holds: an annotation with their names and places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from warmstart.core.errors import ArchiveError, ImageError
from warmstart.dump.archive.metadata import load_json


@dataclass(frozen=True)
class FoundSecret:
    """A secret that is in an image: its name, and its places, such as `memory`."""

    name: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.places)})"


def make_record(found: Sequence[FoundSecret]) -> list[dict[str, Any]]:
    """Return the record as a JSON document."""
    return [{"name": one.name, "places": list(one.places)} for one in found]


def write_record(found: Sequence[FoundSecret]) -> str:
    """Return the record as the text of an annotation."""
    return json.dumps(make_record(found))


def parse_record(text: str) -> tuple[FoundSecret, ...]:
    """Parse the annotation. It is untrusted: whoever made the image wrote it.

    Raises:
        ImageError: it is not such a record.
    """
    try:
        document: Any = load_json(text.encode(), "the record of secrets")
        return tuple(_parse_secret(one) for one in document)
    except ArchiveError as error:
        raise ImageError(error.brief) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"the record of secrets is not understood: {error!r}") from error


def _parse_secret(document: Any) -> FoundSecret:
    name, places = document["name"], document["places"]
    if not isinstance(name, str) or not isinstance(places, list) or not all(isinstance(one, str) for one in places):
        raise TypeError(f"{document!r:.200}")
    return FoundSecret(name, tuple(places))
