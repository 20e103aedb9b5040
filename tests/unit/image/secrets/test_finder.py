"""Values are found in content that arrives in pieces of any size."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from warmstart.image.secrets.finder import MORE, Finder, Search
from warmstart.image.secrets.forms import list_forms
from warmstart.recipe.model import Secret

VALUE = b"correct horse/battery"
FORMS = sorted(list_forms(VALUE))
SECRET = Secret("shop-db.password", VALUE)


def search(pieces: list[bytes], *secrets: Secret) -> dict[str, list[str]]:
    found = Search(Finder(secrets or [SECRET]))
    found.enter("memory")
    for piece in pieces:
        found.feed(piece)
    return {name: list(places) for name, places in found.places.items()}


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(one % (len(content) + 1) for one in cuts), len(content)]
    return [content[start:end] for start, end in pairwise(at)]


@given(st.sampled_from(FORMS), st.binary(max_size=50), st.binary(max_size=50), st.lists(st.integers(0, 300)))
def test_a_value_across_pieces_is_found(form, before, after, cuts):
    assert search(cut(before + form + after, cuts)) == {SECRET.name: ["memory"]}


@given(st.sampled_from(FORMS), st.integers(0), st.lists(st.integers(0, 300)))
def test_a_value_with_a_byte_left_out_is_not_found(form, left_out, cuts):
    at = left_out % len(form)
    damaged = form[:at] + b"\xff" + form[at + 1 :]
    assert search(cut(damaged, cuts)) == {SECRET.name: []}


def test_contents_of_two_places_are_not_joined():
    found = Search(Finder([SECRET]))
    found.enter("one")
    found.feed(VALUE[:9])
    found.enter("two")
    found.feed(VALUE[9:])
    assert found.places == {SECRET.name: {}}


def test_a_value_within_another_and_one_that_overlaps_it_are_found_too():
    secrets = [Secret("whole", b"abcdefghij"), Secret("part", b"cdefgh"), Secret("across", b"hijklm")]
    assert search([b"--abcdefghijklm--"], *secrets) == {name: ["memory"] for name in ("whole", "part", "across")}


def test_secrets_of_one_value_are_all_named():
    assert search([b"same-value"], Secret("one", b"same-value"), Secret("two", b"same-value")) == {
        "one": ["memory"],
        "two": ["memory"],
    }


def test_a_place_is_named_once_and_many_are_not_all_named():
    found = Search(Finder([SECRET]))
    for place in [*map(str, range(100)), "1"]:
        found.enter(place)
        found.feed(VALUE + VALUE)
        found.feed(VALUE)
    assert list(found.places[SECRET.name]) == [*map(str, range(8)), MORE]


def test_without_secrets_there_is_nothing_to_find():
    assert Finder([Secret("pin", b"1234")]).names == frozenset()
    assert Finder([]).find(b"content") == set()
