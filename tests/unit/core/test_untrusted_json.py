"""JSON that somebody else wrote."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.core.untrusted_json import JsonError, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans(), st.booleans())
def test_any_value(value: object, ascii_only: bool, unique_keys: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_json(data, unique_keys=unique_keys) == value


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(JsonError):
        parse_json(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON, at line 1, column 1: Expecting value"),
        (b"\xef\xbb\xbf{}", "is not JSON, at line 1, column 1: Unexpected UTF-8 BOM (decode using utf-8-sig)"),
        (b'{"a\xff": 1}', "is not UTF-8, at byte 3"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[-Infinity]", "is not acceptable JSON: -Infinity is no number"),
        (b'["\\udc80"]', "is not acceptable JSON: a string holds half a surrogate pair"),
        (b'{"\\uD800": 1}', "is not acceptable JSON: a string holds half a surrogate pair"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(data)
    assert str(caught.value) == message


def test_a_key_twice() -> None:
    data = b'[{"a": 1, "\\u0061": 2}]'
    assert parse_json(data) == [{"a": 2}]
    with pytest.raises(JsonError, match=r"^is not acceptable JSON: the key 'a' is there more than once$"):
        parse_json(data, unique_keys=True)


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"
