"""Parse JSON that somebody else wrote: stricter than Python's parser, and with one kind of error."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn


class JsonError(ValueError):
    """The data is not acceptable JSON. The message continues a sentence that begins with the document's name."""


def parse_json(data: bytes, *, unique_keys: bool = False) -> Any:
    """Parse a JSON document.

    UTF-8 is required. NaN, Infinity and half of a surrogate pair are refused: Python accepts them, but no other
    program does, and half a pair can be written neither to a file nor to a terminal.

    Args:
        data: the document.
        unique_keys: refuse an object that has a key twice. Programs differ in which of the values they use.

    Raises:
        JsonError: it is not such a document, or it is nested too deeply.
    """
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_unique if unique_keys else None, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise JsonError("is not acceptable JSON: a string holds half a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"is not UTF-8, at byte {error.start}") from error
    except RecursionError as error:
        raise JsonError("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise JsonError(f"is not JSON, at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except ValueError as error:  # from the hooks, and for a number of thousands of digits
        raise JsonError(f"is not acceptable JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} is there more than once")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
