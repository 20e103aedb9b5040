"""The forms of a value: each is what a program makes of it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.image.secrets.forms import SHORTEST_BYTES, list_forms

VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=SHORTEST_BYTES, max_size=64).filter(
    lambda text: SHORTEST_BYTES <= len(text.encode().strip()) <= 64
)


def holds(content: bytes, value: bytes) -> bool:
    return any(form in content for form in list_forms(value))


@given(VALUES, st.binary(max_size=8), st.binary(max_size=8))
def test_each_encoding_is_found_wherever_the_value_begins(value, before, after):
    data = value.encode().strip()
    text = data.decode()
    whole = before + data + after
    encoded = [
        whole,
        whole.hex().encode(),
        whole.hex().upper().encode(),
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
        before + text.encode("utf-16-le") + after,
        before + text.encode("utf-32-le") + after,
        quote(data, safe="").encode(),
        quote_plus(data).encode(),
        json.dumps({"password": text}).encode(),
        json.dumps({"password": text}, ensure_ascii=False).encode(),
    ]
    assert [one for one in encoded if not holds(one, value.encode())] == []


@pytest.mark.parametrize(
    "content",
    [
        "pässwörd".encode("latin-1"),  # a string of Java or Python in memory
        b'{"p":"p\\u00e4ssw\\u00f6rd"}',
        b"p%c3%a4ssw%c3%b6rd",
    ],
)
def test_a_value_that_is_not_ascii(content):
    assert holds(content, "pässwörd".encode())


@pytest.mark.parametrize("content", [b"a\\u003cb\\u0026c\\u003ed", b"a\\u003cb\\u0026c\\u003ed\\n", b"a%3Cb%26c%3Ed"])
def test_escapes_of_html_in_json_and_of_urls(content):
    assert holds(content, b"a<b&c>d")


def test_a_slash_may_be_escaped():
    assert holds(b'"ab\\/cd\\/ef"', b"ab/cd/ef")


def test_utf_16_of_the_other_byte_order():
    assert holds("build-only".encode("utf-16-be"), b"build-only")


def test_basic_authentication():
    assert holds(b"Authorization: Basic " + base64.b64encode(b"shop:build-only"), b"build-only")


def test_a_form_of_a_web_page():
    assert holds(urlencode({"p": "a b+c/d=e"}).encode(), b"a b+c/d=e")


@pytest.mark.parametrize("value", [b"", b"12345", b" 12345\n"])
def test_a_short_value_has_no_form(value):
    assert list_forms(value) == frozenset()


def test_the_end_of_a_line_is_not_part_of_the_value():
    assert holds(b"password=hunter22;", b"hunter22\n")


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=64), st.binary(max_size=4096))
def test_nothing_is_found_where_nothing_is(value, content):
    plain = value.encode()
    wide = value.encode("utf-16-le").rstrip(b"\0")
    packed = base64.b64encode(plain)[2:-4]
    if plain not in content and wide not in content and packed not in content:
        assert not holds(content, plain)


URI = b"postgresql://shop:s3cr%2Ft-word@postgres:5432/shop"


@pytest.mark.parametrize("content", [b"s3cr%2Ft-word", b"s3cr/t-word", URI])
def test_the_password_of_a_connection_string_is_a_secret_by_itself(content):
    assert holds(content, URI)


@pytest.mark.parametrize(
    "value",
    [
        b"jdbc:postgresql://postgres/shop?user=shop&password=hunter22",
        b"spring.datasource.url=jdbc:postgresql://x/y\nspring.datasource.password = hunter22\nspring.jpa.open=true\n",
        b'{"user": "shop", "password": "hunter22"}',
        b"token: 'hunter22'\n",
    ],
)
def test_the_password_in_settings_is_a_secret_by_itself(value):
    assert holds(b"...hunter22...", value)
    assert not holds(b"user", value)


def test_a_long_value_is_found_by_its_random_part():
    key = base64.encodebytes(bytes(range(256)) * 6)
    pem = b"-----BEGIN PRIVATE KEY-----\n" + key + b"-----END PRIVATE KEY-----\n"
    assert holds(pem, pem)
    assert holds(key[:1000], pem) or holds(key[1000:], pem)
    assert not holds(b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n" + b"A" * 100, pem)


def test_a_long_value_may_be_cut_within_a_character():
    value = "0" + "𐀀𐀁𐀂𐀃𐀄𐀅𐀆𐀇𐀈" * 9
    assert holds(value.encode("utf-16-le"), value.encode())


def test_a_long_value_has_few_forms():
    assert max(map(len, list_forms(bytes(range(256)) * 4096))) <= 256
