"""Known values and secrets of the rules are found in content that arrives in pieces of any size."""

from __future__ import annotations

import secrets
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.planted import make_jwt, make_pem, make_rsa_key, make_token

from warmstart.image.secrets.forms import list_forms
from warmstart.image.secrets.scan import KNOWN, MORE, Found, Scanner, Search
from warmstart.recipe.model import Secret

VALUE = b"correct horse/battery"
FORMS = sorted(list_forms(VALUE))
SECRET = Secret("shop-db.password", VALUE)
SCANNER = Scanner([SECRET])


def search(pieces: list[bytes], scanner: Scanner = SCANNER) -> list[Found]:
    found = Search(scanner)
    found.enter("memory")
    for piece in pieces:
        found.feed(piece)
    found.finish()
    return list(found.found.values())


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(one % (len(content) + 1) for one in cuts), len(content)]
    return [content[start:end] for start, end in pairwise(at)]


@given(st.sampled_from(FORMS), st.binary(max_size=50), st.binary(max_size=50), st.lists(st.integers(0, 300)))
def test_a_value_across_pieces_is_found(form, before, after, cuts):
    (found,) = [one for one in search(cut(before + form + after, cuts)) if one.kind == KNOWN]
    assert (found.title, list(found.places)) == (SECRET.name, ["memory"])
    assert len(before) - 8 <= found.spots[0].offset <= len(before) + 8


@given(st.sampled_from(FORMS), st.integers(0), st.lists(st.integers(0, 300)))
def test_a_value_with_a_byte_left_out_is_not_found(form, left_out, cuts):
    at = left_out % len(form)
    assert search(cut(form[:at] + b"\xff" + form[at + 1 :], cuts)) == []


@pytest.mark.parametrize("offset", [1, 10, 2000, 9000])
def test_a_secret_across_blocks_is_found_once(offset):
    key = make_pem(make_rsa_key()).encode("utf-16-le")
    content = b"." * ((1 << 20) - offset) + key + b"." * (2 << 20)
    pieces = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
    (found,) = search(pieces)
    assert (found.kind, found.count, found.spots[0].offset) == ("private-key", 1, (1 << 20) - offset + 2 * 31)


def test_contents_of_two_places_are_not_joined():
    found = Search(SCANNER)
    found.enter("one")
    found.feed(VALUE[:9])
    found.enter("two")
    found.feed(VALUE[9:])
    found.finish()
    assert found.found == {}


def test_a_value_within_another_and_one_that_overlaps_it_are_found_too():
    known = [Secret("whole", b"abcdefghij"), Secret("part", b"cdefgh"), Secret("across", b"hijklm")]
    assert {one.title for one in search([b"--abcdefghijklm--"], Scanner(known))} == {"whole", "part", "across"}


def test_secrets_of_one_value_are_all_named():
    known = [Secret("one", b"same-value"), Secret("two", b"same-value")]
    assert {one.title for one in search([b"same-value"], Scanner(known))} == {"one", "two"}


def test_a_place_is_named_once_and_many_are_not_all_named():
    search = Search(SCANNER)
    for place in [*map(str, range(100)), "1"]:
        search.enter(place)
        search.feed(VALUE + VALUE)
        search.feed(VALUE)
    search.finish()
    (found,) = search.found.values()
    assert list(found.places) == [*map(str, range(8)), MORE]
    assert (found.count, len(found.spots)) == (303, 8)


def test_without_values_and_rules_there_is_nothing_to_find():
    assert search([VALUE], Scanner([Secret("pin", b"1234")], rules=())) == []


def test_one_token_in_many_places_is_one_finding_and_two_tokens_are_two():
    one, two = make_token().encode(), make_token().encode()
    found = search([b"%s %s %s %s" % (one, two, one, one)])
    assert [(each.kind, each.count) for each in found] == [("github-token", 3), ("github-token", 1)]


@pytest.mark.parametrize("value", [b"s3cr/t-word", b"s3cr%2Ft-word"])
def test_a_known_value_is_found_by_its_name_alone(value):
    url = b"postgresql://shop:s3cr%2Ft-word@db:5432/shop"
    assert [one.kind for one in search([url], Scanner([Secret("db.password", value)]))] == [KNOWN]
    assert [one.kind for one in search([url], Scanner([Secret("db.password", b"s3cr-other")]))] == ["connection-url"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("around", [("", ""), ("\u20ac", "\u20ac"), ("log: ", " \U0001f600"), (".", "\n")])
def test_a_string_in_any_encoding_is_found(encoding, around):
    """With characters around it that make a runtime choose the encoding."""
    before, after = around
    if encoding == "latin-1" and not (before + after).isascii():
        before = after = "\xe9"
    for text in (make_token(), make_jwt(), f"postgresql://shop:{secrets.token_urlsafe(9)}7@db:5432/shop"):
        found = search([b"\xff" + (before + text + after).encode(encoding) + b"\xff"])
        assert len(found) == 1, (encoding, around)
        assert text[6:] not in found[0].excerpt


@pytest.mark.parametrize(
    "content",
    [
        "eyJ" * 350_000,
        "://" * 350_000,
        "x://a:" + "b" * 1_000_000,
        ("password=" * 120_000),
        "-----BEGIN PRIVATE KEY-----\n" * 37_000,
        "-----BEGIN PRIVATE KEY-----" + "A" * 1_000_000,
        ("eyJ" + "A" * 40 + ".") * 23_000,
        "host=" * 200_000,
    ],
    ids=range(8),
)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-32-le"])
def test_content_that_is_made_to_be_slow_is_not(content, encoding):
    start = time.process_time()
    search([content.encode(encoding)[: 1 << 20]])
    assert time.process_time() - start < 2


def test_findings_are_bounded():
    found = Search(Scanner())
    found.enter("memory")
    found.feed(b" ".join(make_token().encode() for _ in range(1500)))
    found.finish()
    assert (len(found.found), found.is_complete) == (1000, False)
