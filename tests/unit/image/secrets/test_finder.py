"""Values are found in a text, also those that overlap."""

from __future__ import annotations

from warmstart.image.secrets.finder import Finder
from warmstart.recipe.model import Secret


def test_a_value_within_another_and_one_that_overlaps_it_are_found_too():
    secrets = [Secret("whole", b"abcdefghij"), Secret("part", b"cdefgh"), Secret("across", b"hijklm")]
    assert Finder(secrets).find(b"--abcdefghijklm--") == {"whole", "part", "across"}


def test_without_secrets_there_is_nothing_to_find():
    assert Finder([Secret("pin", b"1234")]).names == frozenset()
    assert Finder([]).find(b"content") == set()
